"""Colours of classes."""

import colorsys

Rgb = tuple[int, int, int]

IGNORED_COLOR: Rgb = (255, 255, 255)
IGNORED_LINES: Rgb = (160, 160, 160)
"""Outlines of ignored objects."""

# Twelve colours that are easy to tell apart, the darkest first because class 0 is usually the background.
_FIRST_COLORS: tuple[Rgb, ...] = (
    (40, 42, 54),
    (230, 85, 70),
    (60, 140, 220),
    (245, 190, 60),
    (90, 180, 90),
    (155, 95, 190),
    (70, 200, 200),
    (240, 130, 180),
    (140, 100, 70),
    (180, 210, 80),
    (120, 130, 150),
    (250, 150, 60),
)


def default_palette(num_classes: int) -> tuple[Rgb, ...]:
    """Different colours for up to 255 classes. The colour of a class does not depend on the number of classes."""
    colors = list(_FIRST_COLORS[:num_classes])
    turn = 0
    while len(colors) < num_classes:
        hue = (turn * 0.6180339887) % 1.0  # the golden ratio spreads any number of hues evenly
        lightness, saturation = (0.45, 0.65, 0.3)[turn % 3], (0.7, 0.55)[turn // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        color = (round(red * 255), round(green * 255), round(blue * 255))
        if color not in colors:
            colors.append(color)
        turn += 1
    return tuple(colors)
