// A frame (PPM) -> labels (PGM) with a model folder of edgeseg, in C++ with OpenVINO, which reads the
// folder's ONNX or IR. Usage: segment FOLDER FRAME.ppm LABELS.pgm
#include <openvino/openvino.hpp>

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

[[noreturn]] void refuse(const std::string &why) { throw std::runtime_error(why); }

// As much of JSON as a manifest holds.
struct Json {
    std::map<std::string, Json> members;
    std::vector<Json> items;
    std::string text;  // of a string, a number, or true, false, null

    const Json &at(const std::string &name) const {
        auto found = members.find(name);
        if (found == members.end()) refuse("manifest.json: '" + name + "' is missing");
        return found->second;
    }
    int number() const { return std::atoi(text.c_str()); }
};

class Reader {
  public:
    explicit Reader(std::string text) : text_(std::move(text)) {}

    Json read() {
        Json made;
        const char first = peek();
        if (first == '{') {
            for (bool more = open('}'); more; more = another('}')) {
                const std::string name = word();
                expect(':');
                made.members[name] = read();
            }
        } else if (first == '[') {
            for (bool more = open(']'); more; more = another(']')) made.items.push_back(read());
        } else if (first == '"') {
            made.text = word();
        } else {
            while (at_ < text_.size() && !std::strchr(",]} \t\r\n", text_[at_]))
                made.text += text_[at_++];
        }
        return made;
    }

  private:
    char peek() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) at_++;
        if (at_ == text_.size()) refuse("manifest.json ends too early");
        return text_[at_];
    }
    void expect(char c) {
        if (peek() != c) refuse(std::string("manifest.json: expected '") + c + "'");
        at_++;
    }
    bool open(char end) {
        at_++;
        if (peek() != end) return true;
        at_++;
        return false;
    }
    bool another(char end) {
        if (peek() == end) {
            at_++;
            return false;
        }
        expect(',');
        return true;
    }
    std::string word() {
        std::string made;
        expect('"');
        while (at_ < text_.size() && text_[at_] != '"') {
            if (text_[at_] == '\\') at_++;  // names in a manifest need no other escapes
            if (at_ < text_.size()) made += text_[at_++];
        }
        expect('"');
        return made;
    }

    std::string text_;
    std::size_t at_ = 0;
};

struct Image {
    std::size_t height, width;
    std::vector<std::uint8_t> pixels;  // RGB
};

Image read_ppm(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    std::size_t width = 0, height = 0, largest = 0;
    file >> kind >> width >> height >> largest;
    file.get();
    if (!file || kind != "P6" || largest != 255) refuse(path + ": is no binary PPM of 8 bits");
    Image image{height, width, std::vector<std::uint8_t>(height * width * 3)};
    file.read(reinterpret_cast<char *>(image.pixels.data()), image.pixels.size());
    if (!file) refuse(path + ": ends too early");
    return image;
}

Json read_manifest(const std::string &folder) {
    std::ifstream file(folder + "/manifest.json");
    if (!file) refuse(folder + ": holds no manifest.json");
    std::ostringstream text;
    text << file.rdbuf();
    Json manifest = Reader(text.str()).read();
    if (manifest.at("schema").number() != 1)
        refuse("manifest.json is of schema " + manifest.at("schema").text + "; expected 1");
    if (manifest.at("gate").at("state").text != "passed")
        refuse("gate: " + manifest.at("gate").at("state").text + "; run 'edgeseg export' again");
    if (manifest.at("output").at("kind").text != "labels")
        refuse("the graph returns scores; export without --output scores");
    return manifest;
}

void run(const std::string &folder, const std::string &from, const std::string &to) {
    const Json manifest = read_manifest(folder);
    const Json &input = manifest.at("input");
    Image image = read_ppm(from);
    const std::size_t height = input.at("size").items.at(0).number();
    const std::size_t width = input.at("size").items.at(1).number();
    if (image.height != height || image.width != width)
        refuse(from + " is " + std::to_string(image.height) + "x" + std::to_string(image.width) +
               "; the network takes " + std::to_string(height) + "x" + std::to_string(width));
    if (input.at("order").text == "bgr")
        for (std::size_t i = 0; i < image.pixels.size(); i += 3)
            std::swap(image.pixels[i], image.pixels[i + 2]);

    ov::Core core;
    // Half precision is the engine's choice only where the folder was not exported as fp32.
    ov::AnyMap settings{{"PERFORMANCE_HINT", "LATENCY"}};
    if (manifest.at("precision").text == "fp32") settings["INFERENCE_PRECISION_HINT"] = "f32";
    auto model = core.compile_model(folder + "/" + manifest.at("network_file").text, "CPU", settings);
    auto request = model.create_infer_request();
    request.set_input_tensor(ov::Tensor(ov::element::u8, {1, height, width, 3}, image.pixels.data()));
    request.infer();
    const ov::Tensor labels = request.get_output_tensor();
    const ov::Shape shape = labels.get_shape();
    std::ofstream file(to, std::ios::binary);
    file << "P5\n" << shape[2] << " " << shape[1] << "\n255\n";
    file.write(reinterpret_cast<const char *>(labels.data<std::uint8_t>()), shape[1] * shape[2]);
    if (!file.flush()) refuse(to + ": can't be written");
}

}  // namespace

int main(int count, char **words) {
    if (count != 4) {
        std::cerr << "usage: segment FOLDER FRAME.ppm LABELS.pgm\n";
        return 2;
    }
    try {
        run(words[1], words[2], words[3]);
    } catch (const std::exception &error) {
        std::cerr << "segment: " << error.what() << "\n";
        return 2;
    }
    return 0;
}
