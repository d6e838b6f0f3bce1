"""Colours of classes."""

import colorsys

Rgb = tuple[int, int, int]

IGNORED_COLOR: Rgb = (255, 255, 255)
IGNORED_LINES: Rgb = (160, 160, 160)
"""Of the outlines of objects that are ignored."""

# Twelve colours that are told apart at a glance, the darkest first: class 0 is the background as a rule.
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
    """Different colours for up to 255 classes; the first of them do not depend on how many there are."""
    colors = list(_FIRST_COLORS[:num_classes])
    turn = 0
    while len(colors) < num_classes:
        hue = (turn * 0.6180339887) % 1.0  # the golden ratio spreads hues evenly, however many are drawn
        lightness, saturation = (0.45, 0.65, 0.3)[turn % 3], (0.7, 0.55)[turn // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        color = (round(red * 255), round(green * 255), round(blue * 255))
        if color not in colors:
            colors.append(color)
        turn += 1
    return tuple(colors)
