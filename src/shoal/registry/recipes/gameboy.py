"""A game for the Game Boy, written here byte by byte, in the emulator PyBoy.

A square moves along a line of sixteen places, to the left and to the right, and on round. Where it
meets the other square, that is a catch, and the other goes to its next place.
"""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

__all__ = ["Catch", "cartridge", "create"]

PLAYER, OTHER, CATCHES = 0xC000, 0xC001, 0xC002  # addresses of its variables
ROWS = (0x9880, 0x9900)  # where the other and the player are drawn
LENGTH = 200

BEGIN = bytes.fromhex(
    "F3 31FEFF"  # no interrupts; the stack
    "AF E040"  # the screen is off
    "210080 AF 22 CB6C 28FA"  # its memory is cleared, 8000 to 9FFF
    "211080 3EFF 22 7D FE20 20F8"  # tile 1 is black
    "3EE4 E047 3E91 E040"  # colours; the screen is on
    "AF EA02C0 3E08 EA00C0 3E03 EA01C0"  # the variables
)
# One frame, from the first line that is not shown until the second.
FRAME = bytes.fromhex(
    "F044 FE90 20FA"  # wait for it
    "3E20 E000 F000 F000 47"  # B: what is pressed
    "FA00C0 6F 2699 3600"  # the player's place is empty
    "CB40 2001 3C CB48 2001 3D E60F"  # right, left
    "EA00C0 6F 3601 47"  # it is drawn again; B: where it is
    "FA01C0 C680 6F 2698 3600"  # so is the other's
    "FA01C0 B8 2015"  # if they meet:
    "FA02C0 3C EA02C0"  # one more catch
    "FA01C0 4F 87 87 81 C603 E60F"  # and the other is 5 times as far, and 3
    "EA01C0"
    "FA01C0 C680 6F 3601"  # it is drawn
    "F044 FE90 28FA"  # wait for the end of the line
)


def create(**kwargs: Any) -> Catch:
    """Return the game as an environment."""
    return Catch(**kwargs)


def cartridge() -> bytes:
    """Return the game as a cartridge of 32 KiB."""
    back = -(len(FRAME) + 2) & 0xFF
    assert len(FRAME) < 126  # a short jump
    code = BEGIN + FRAME + bytes([0x18, back])
    rom = bytearray(0x8000)
    rom[0x100:0x104] = bytes.fromhex("00 C35001")  # where it starts
    rom[0x134:0x139] = b"CATCH"
    rom[0x150 : 0x150 + len(code)] = code
    check = 0
    for byte in rom[0x134:0x14D]:
        check = (check - byte - 1) & 0xFF
    rom[0x14D] = check
    rom[0x14E:0x150] = sum(rom).to_bytes(4, "big")[2:]
    return bytes(rom)


class Catch(gymnasium.Env):
    """The game: the screen in shades of grey, and three buttons: none, left and right.

    Args:
        render_mode: ``"rgb_array"`` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (144, 160), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None):
        from pyboy import PyBoy

        self.render_mode = render_mode
        self.console = PyBoy(
            io.BytesIO(cartridge()), window="null", sound_emulated=False, log_level="ERROR"
        )
        self.console.set_emulation_speed(0)
        while self.console.memory[PLAYER] != 8:  # what it starts with
            self.console.tick()
        self.start = io.BytesIO()
        self.console.save_state(self.start)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.start.seek(0)
        self.console.load_state(self.start)
        for place in (PLAYER, OTHER):
            self.console.memory[place] = int(self.np_random.integers(16))
        for row in ROWS:  # both are drawn elsewhere
            for place in range(16):
                self.console.memory[row + place] = 0
        self.age = 0
        self.console.tick(2)
        self.caught = self.console.memory[CATCHES]
        return self.look(), {}

    def look(self) -> np.ndarray:
        """Return what the screen shows."""
        return self.console.screen.ndarray[:, :, 0].copy()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        # A console shows a frame and then reads the buttons: the second frame shows what they did.
        if action:
            self.console.button(("left", "right")[action - 1])
        self.console.tick(2)
        before, self.caught = self.caught, self.console.memory[CATCHES]
        self.age += 1
        reward = float((self.caught - before) % 256)
        return self.look(), reward, False, self.age == LENGTH, {}

    def render(self) -> np.ndarray | None:
        return self.console.screen.ndarray[:, :, :3].copy() if self.render_mode else None

    def close(self) -> None:
        self.console.stop(save=False)
