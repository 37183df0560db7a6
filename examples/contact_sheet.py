"""One picture of all compiled environments, after some random steps of each: docs/environments.png.

python examples/contact_sheet.py [FILE.png]
"""

# needs: PIL
# test: sheet.png

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import shoal
from shoal.ocean_c.draw import picture
from shoal.ocean_c.find import own_names

COLUMNS, SIDE, GAP, LABEL = 4, 240, 16, 26


def tile(name: str) -> Image.Image:
    """What an environment shows in the middle of an episode, centred in a square."""
    vector = shoal.vectorize(name, 1, backend="native", seed=3)
    vector.reset()
    vector.action_space.seed(3)
    random = np.random.default_rng(3)
    best = vector.call("drawing")[0]
    for _ in range(40):
        actions, masks = vector.action_space.sample(), vector.action_masks
        if not masks.all():  # some are not legal
            actions = np.argmax(random.random(masks.shape) * masks, axis=1)
        _, _, terminations, truncations, _ = vector.step(actions)
        if (terminations | truncations).any():
            break
        best = vector.call("drawing")[0]
    vector.close()
    shown = Image.fromarray(np.ascontiguousarray(picture(best, SIDE)))
    square = Image.new("RGB", (SIDE, SIDE), (17, 21, 28))
    square.paste(shown, ((SIDE - shown.width) // 2, (SIDE - shown.height) // 2))
    return square


def main(path: str = "docs/environments.png") -> None:
    names = own_names()
    rows = -(-len(names) // COLUMNS)
    width = COLUMNS * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, rows * (SIDE + LABEL + GAP) + GAP), (11, 14, 19))
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        x = GAP + i % COLUMNS * (SIDE + GAP)
        y = GAP + i // COLUMNS * (SIDE + LABEL + GAP)
        sheet.paste(tile(name), (x, y))
        middle = (x + SIDE / 2, y + SIDE + LABEL / 2 + 2)
        pen.text(middle, name, (232, 238, 246), ImageFont.load_default(15), anchor="mm")
    sheet.save(path, optimize=True)
    print(f"{path}: {', '.join(names)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
