"""The cartridge that the recipe `gameboy` writes, and the game on it."""

import numpy as np
import pytest

from shoal.registry.recipes.gameboy import Catch, cartridge


def test_the_header_is_what_a_console_asks_for():
    rom = cartridge()
    assert len(rom) == 32 * 1024
    # Pan Docs: x = x - byte - 1 over the header, and the sum of all other bytes.
    assert (sum(rom[0x134:0x14D]) + 25 + rom[0x14D]) % 256 == 0
    assert int.from_bytes(rom[0x14E:0x150], "big") == (sum(rom) - rom[0x14E] - rom[0x14F]) % 65536


def squares(screen):
    """Where the two black squares of 8×8 points are: (the other, the player)."""
    rows = screen[32:40], screen[64:72]
    assert (screen == 0).sum() == 128
    return tuple(np.flatnonzero((row == 0).all(axis=0))[0] // 8 for row in rows)


def test_the_game_goes_as_it_says():
    pytest.importorskip("pyboy", reason="not among the tests' own packages")
    env, again = Catch(), Catch()
    rng = np.random.default_rng(0)
    caught = 0
    for seed in range(2):
        screen, _ = env.reset(seed=seed)
        assert (screen == again.reset(seed=seed)[0]).all()
        for step in range(200):
            seen = env.console.memory
            other, player = seen[0xC001], seen[0xC000]
            assert squares(screen) == (other, player)
            action = int(rng.integers(3))
            screen, reward, terminated, truncated, _ = env.step(action)
            assert (screen == again.step(action)[0]).all()
            player = (player + (0, -1, 1)[action]) % 16
            meets = player == other
            assert reward == meets and not terminated and truncated == (step == 199)
            assert seen[0xC000] == player
            assert seen[0xC001] == ((5 * other + 3) % 16 if meets else other)
            caught += meets
    assert caught > 5
    env.close(), again.close()
