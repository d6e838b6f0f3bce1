"""Decodes the images whose paths come on standard input, with Pillow and nothing else: the peer of `pack.py`."""

import sys

from PIL import Image


def main() -> None:
    for line in sys.stdin:
        with Image.open(line.rstrip("\n")) as image:
            image.load()


if __name__ == "__main__":
    main()
