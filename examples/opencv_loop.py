"""Labels of a camera or video by OpenCV, shown over the frame until a key is pressed.

python examples/opencv_loop.py FOLDER [CAMERA NUMBER | STREAM (rtsp://...) | VIDEO]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np

import edgeseg
from edgeseg.errors import EdgesegError, EngineError

DEADLINE = 0.1
WATCHDOG = 2.0


def is_live(source: str) -> bool:
    """A camera or a network's stream: it does not wait, and has no end."""
    return source.isdigit() or "://" in source


def frames(source: str) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 BGR frames; a camera that stops is an error, so that it is opened again."""
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    try:
        if not capture.isOpened():
            raise EngineError(f"OpenCV can't open '{source}'; give a camera number or a video")
        while True:
            taken, frame = capture.read()
            if taken:
                yield frame
            elif is_live(source):
                raise EngineError(f"camera {source} gives no more frames; is it unplugged?")
            else:
                return
    finally:
        capture.release()


def draw(result: Any, palette: np.ndarray) -> np.ndarray:
    """The classes' colours half over the frame; `palette` (256, 3) uint8 BGR."""
    shown: np.ndarray = cv2.addWeighted(result.frame, 0.5, palette[result.labels], 0.5, 0)
    if result.late:
        cv2.putText(shown, "late", (10, 30), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 255), 2)
    return shown


def main(folder: str, source: str = "0") -> None:
    """Run until a key is pressed or the video ends."""
    policy = "newest" if is_live(source) else "every"
    camera = partial(frames, source)  # a function: it is called again when the camera fails
    options: dict[str, Any] = {"policy": policy, "deadline": DEADLINE, "watchdog": WATCHDOG}
    with edgeseg.stream(folder, camera, frames="bgr", **options) as results:
        palette = np.zeros((256, 3), np.uint8)
        colours = np.array(results.segmenter.classes.palette, np.uint8)[:, ::-1]
        palette[: len(colours)] = colours
        for result in results:
            cv2.imshow("edgeseg", draw(result, palette))
            if cv2.waitKey(1) >= 0:
                break
    sys.stdout.write(f"{results.counters}\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except EdgesegError as error:
        sys.exit(f"edgeseg: {error}")
