"""Makes Atari games as agents are trained on them: one by one, or all at once in ale_py's threads.

Both give the same observations: the last four pictures, grey, 84 × 84.
"""

from __future__ import annotations

from typing import Any

from shoal.errors import UnknownEnvError, did_you_mean

__all__ = ["create", "create_all"]


def create(
    game: str = "pong",
    *,
    frameskip: int = 4,
    noop_max: int = 0,
    stack_num: int = 4,
    repeat_action_probability: float = 0.25,
    **settings: Any,
) -> Any:
    """Make one game.

    Args:
        game: as ale_py calls it, such as ``"ms_pacman"``.
        frameskip: frames for each action; observed is the maximum of the last two.
        noop_max: most steps without an action at the beginning of an episode.
        stack_num: pictures in an observation.
        repeat_action_probability: that the game gets the action before once more, for each frame.
        settings: of ale_py's environment, such as ``render_mode``.

    Raises:
        UnknownEnvError: ale_py has no such game.
    """
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gymnasium.register_envs(ale_py)
    specs = [spec for name, spec in gymnasium.registry.items() if name.startswith("ALE/")]
    ids = {spec.kwargs["game"]: spec.id for spec in specs}
    if game not in ids:
        raise UnknownEnvError(f"ale_py has no game {game!r}{did_you_mean(game, ids)}")
    env = gymnasium.make(
        ids[game],
        frameskip=1,
        repeat_action_probability=repeat_action_probability,
        disable_env_checker=True,
        **settings,
    )
    env = AtariPreprocessing(env, noop_max=noop_max, frame_skip=frameskip)
    return FrameStackObservation(env, stack_num, padding_type="zero")


def create_all(
    num_envs: int,
    game: str = "pong",
    *,
    autoreset_mode: Any = "NextStep",
    frameskip: int = 4,
    noop_max: int = 0,
    stack_num: int = 4,
    repeat_action_probability: float = 0.25,
    full_action_space: bool = False,
) -> Any:
    """Make `num_envs` games, which ale_py steps in its own threads; see `create`."""
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        game,
        num_envs,
        autoreset_mode=autoreset_mode,
        frameskip=frameskip,
        noop_max=noop_max,
        stack_num=stack_num,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        reward_clipping=False,
        use_fire_reset=False,
    )
