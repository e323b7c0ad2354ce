/* prepare.c without Python, for processors that tests do not run on and for sanitizers:
 *
 *   cc -std=c11 -O2 -ffp-contract=off -pthread tests/native/prepare_check.c -o check && ./check
 *
 * Random frames of every format go through plain C and what the processor has, on one thread and on
 * three; the bytes must agree, and the last line, a checksum of all of them, is the same everywhere.
 */

#include "../../edgeseg/runtime/prepare.c"

#include <stdio.h>

static uint64_t state = 1;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* Taps of `want` pixels of `have`: neighbours whose shares sum up to 2^14. */
static void make_taps(int have, int want, int taps, int32_t *first, int16_t *weights)
{
    for (int i = 0; i < want; i++) {
        int rest = 1 << 14;
        first[i] = (int)((int64_t)i * (have - taps + 1) / want);
        for (int k = 0; k < taps; k++) {
            const int share = k + 1 == taps ? rest : (int)draw((uint32_t)rest + 1);
            weights[i * taps + k] = (int16_t)share;
            rest -= share;
        }
    }
}

static uint64_t sum = 1469598103934665603u;

static int check(int number)
{
    Preparation job = {.format = number % 4, .swap = draw(2), .fill = {1, 2, 3}};
    const int H = 2 * (2 + draw(40)), W = 2 * (4 + draw(60)), apart = job.format == THREE ? draw(2) : 0;
    const int bytes = job.format == THREE ? 3 + apart : job.format == YUYV ? 2 : 1;
    const int64_t held = (int64_t)(H + H / 2) * W * bytes;
    uint8_t *frame = malloc(held);
    for (int64_t i = 0; i < held; i++) frame[i] = draw(8) ? draw(256) : 255 * draw(2);
    job.frame = frame;
    job.row_stride = job.chroma_stride = (int64_t)W * bytes;
    job.chroma = frame + (int64_t)H * W;
    job.column_stride = bytes;
    job.channel_stride = job.format == THREE;
    job.top = draw(H / 2), job.left = draw(W / 2);
    job.height = H - job.top - draw(H / 2 - 1), job.width = W - job.left - draw(W / 2 - 3);
    const int plain = draw(5) == 0; /* of the right size already */
    job.h = plain ? job.height : 1 + (int)draw(70);
    job.w = plain ? job.width : 1 + (int)draw(90);
    job.row_taps = plain ? 1 : 1 + (int)draw(job.height < 6 ? job.height : 6);
    const int column_taps = plain ? 1 : 1 + (int)draw(job.width < 6 ? job.width : 6);
    job.pairs = (column_taps + 1) / 2;
    job.to_top = draw(5), job.to_left = draw(5);
    job.network_h = job.h + job.to_top + draw(5), job.network_w = job.w + job.to_left + draw(5);
    int32_t *rows = malloc(4 * job.h), *columns = malloc(4 * job.w);
    int16_t *row_weights = malloc(2 * job.h * job.row_taps), *weights = malloc(2 * job.w * column_taps);
    int16_t *pairs = calloc((size_t)job.w * job.pairs * 2, 2);
    make_taps(job.height, job.h, job.row_taps, rows, row_weights);
    make_taps(job.width, job.w, column_taps, columns, weights);
    for (int x = 0; x < job.w; x++)
        for (int k = 0; k < column_taps; k++)
            pairs[((int64_t)(k / 2) * job.w + x) * 2 + k % 2] = weights[x * column_taps + k];
    job.row_first = rows, job.row_weights = row_weights;
    job.column_first = columns, job.column_weights = pairs;
    const int64_t size = (int64_t)job.network_h * job.network_w * 3;
    uint8_t *made[2] = {malloc(size), malloc(size)};
    int wrong = 0;
    for (int turn = 0; turn < 4; turn++) {
        job.isa = turn < 2 ? PLAIN_C : FASTEST;
        job.threads = turn % 2 ? 3 : 1;
        job.out = made[turn > 0];
        memset(job.out, 77, size);
        wrong |= edgeseg_prepare(&job) != DONE || (turn && memcmp(made[0], made[1], size));
    }
    if (wrong) printf("job %d: format %d, swap %d, %dx%d -> %dx%d differs\n", number, job.format,
                      job.swap, job.height, job.width, job.h, job.w);
    for (int64_t i = 0; i < size; i++) sum = (sum ^ made[0][i]) * 1099511628211u;
    free(frame), free(rows), free(columns), free(row_weights), free(weights), free(pairs);
    free(made[0]), free(made[1]);
    return wrong;
}

int main(int count, char **words)
{
    const int jobs = count > 1 ? atoi(words[1]) : 300;
    int wrong = 0;
    for (int i = 0; i < jobs; i++) {
        state = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
        wrong += check(i);
    }
    printf("instruction set %d, jobs %d, wrong %d\n%016llx\n", FASTEST, jobs, wrong,
           (unsigned long long)sum);
    return wrong > 0;
}
