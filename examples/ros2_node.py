"""A ROS 2 node: `image` in; `labels` (mono8), `overlay` (rgb8) and `/diagnostics` out.

python examples/ros2_node.py --ros-args -p folder:=FOLDER -r image:=/camera/image_raw

Only the newest image is segmented. Labels and overlay carry the header of their image; labels that
are older than the deadline are counted, and not published.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

import edgeseg
from edgeseg.errors import EdgesegError, UsageError
from edgeseg.picture import overlay

ORDERS = {"rgb8": "rgb", "bgr8": "bgr"}
KEPT = 64
"""Headers of images that may still be on their way."""


def to_array(message: Any) -> np.ndarray:
    """sensor_msgs/Image in rgb8 or bgr8 -> (H, W, 3) uint8, its own memory."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width * 3].reshape(message.height, message.width, 3).copy()


def to_message(array: np.ndarray, encoding: str, header: Any) -> Any:
    """(H, W) or (H, W, 3) uint8 -> sensor_msgs/Image."""
    message = Image()
    message.header, message.encoding = header, encoding
    message.height, message.width = array.shape[:2]
    message.step = array.shape[1] * (array.shape[2] if array.ndim == 3 else 1)
    message.data = np.ascontiguousarray(array).tobytes()
    return message


class Segmentation(Node):  # type: ignore[misc]
    """Images are taken in a callback, and results are published from a thread of their own."""

    def __init__(self) -> None:
        super().__init__("edgeseg")
        self.declare_parameter("folder", "")
        self.declare_parameter("encoding", "rgb8")
        self.declare_parameter("deadline", 0.2)
        folder = str(self.get_parameter("folder").value)
        self.encoding = str(self.get_parameter("encoding").value)
        if not folder:
            raise UsageError("the node needs a model folder: --ros-args -p folder:=FOLDER")
        if self.encoding not in ORDERS:
            raise UsageError(f"encoding is {self.encoding}; expected one of {', '.join(ORDERS)}")
        self._images: queue.SimpleQueue[edgeseg.Captured | None] = queue.SimpleQueue()
        self._headers: OrderedDict[float, Any] = OrderedDict()
        self._labels = self.create_publisher(Image, "labels", 1)
        self._overlay = self.create_publisher(Image, "overlay", 1)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.failure = ""
        self.results = edgeseg.stream(
            folder,
            self._frames(),
            frames=ORDERS[self.encoding],
            deadline=float(self.get_parameter("deadline").value),
        )
        self._device = self.results.segmenter.engine.device
        self._thread = threading.Thread(target=self._publish_all, daemon=True)
        self._thread.start()
        self.create_subscription(Image, "image", self.take, qos_profile_sensor_data)
        self.create_timer(1.0, self.report)

    def take(self, message: Any) -> None:
        """The callback of an image."""
        if message.encoding != self.encoding:
            self.get_logger().error(
                f"image is {message.encoding}; this node was started for {self.encoding}: "
                f"-p encoding:={message.encoding} (one of {', '.join(ORDERS)})",
                once=True,
            )
            return
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        age = self.get_clock().now().nanoseconds * 1e-9 - stamp
        taken = time.monotonic() - max(0.0, age)
        self._headers[taken] = message.header
        while len(self._headers) > KEPT:
            self._headers.popitem(last=False)
        self._images.put(edgeseg.Captured(to_array(message), taken))

    def _frames(self) -> Iterator[edgeseg.Captured]:
        while (image := self._images.get()) is not None:
            yield image

    def _publish_all(self) -> None:
        try:
            for result in self.results:
                header = self._headers.get(result.captured)
                if header is not None and not result.late:
                    self._publish(result, header)
        except Exception as error:
            self.failure = str(error)
            self.get_logger().error(f"edgeseg has ended: {error}")

    def _publish(self, result: Any, header: Any) -> None:
        self._labels.publish(to_message(result.labels, "mono8", header))
        if self._overlay.get_subscription_count():
            frame = result.frame if self.encoding == "rgb8" else result.frame[..., ::-1]
            drawn = overlay(frame, result.labels, self.results.segmenter.classes)
            self._overlay.publish(to_message(drawn, "rgb8", header))

    def report(self) -> None:
        """Publish the counters; the status is a warning when results are late."""
        counters = vars(self.results.counters)
        status = DiagnosticStatus()
        status.name, status.hardware_id = "edgeseg", self._device
        status.level, status.message = DiagnosticStatus.OK, "running"
        if counters["late"]:
            status.level, status.message = DiagnosticStatus.WARN, "results are late"
        if self.failure:
            status.level, status.message = DiagnosticStatus.ERROR, self.failure
        status.values = [KeyValue(key=name, value=str(n)) for name, n in counters.items()]
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [status]
        self._diagnostics.publish(array)

    def destroy_node(self) -> None:
        """End the threads, then the node."""
        self._images.put(None)
        self.results.close()
        self._thread.join(1.0)
        super().destroy_node()


def main() -> None:
    """Run until ROS ends."""
    rclpy.init()
    try:
        node = Segmentation()
    except EdgesegError as error:
        rclpy.try_shutdown()
        sys.exit(f"edgeseg: {error}")
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
