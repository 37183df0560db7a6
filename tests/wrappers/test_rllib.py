"""What RLlib's environment runners are given; training is examples/rllib_ppo.py."""

import gymnasium
import numpy as np

from shoal.vectorization.vector import Vector
from shoal.wrappers.rllib import environment


def test_several_are_a_vector_and_one_is_an_environment():
    create = environment("FrozenLake-v1", backend="serial", form="float32", one_hot=True)
    gymnasium.register(
        "through-the-registry-v0",
        vector_entry_point=lambda num_envs: create({"num_envs": num_envs}),
    )
    try:
        made = gymnasium.make_vec(
            "through-the-registry-v0", 3, vectorization_mode="vector_entry_point"
        )
    finally:
        del gymnasium.registry["through-the-registry-v0"]
    assert isinstance(made, Vector) and made.num_envs == 3
    one = create({})
    assert made.single_observation_space == one.observation_space
    assert made.single_action_space == one.action_space
    # RLlib keeps observations for a whole episode, so they must not be views of shared memory.
    kept = [made.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    for _ in range(5):
        kept.append(made.step(np.full(3, 2))[0])
        copies.append(kept[-1].copy())
    assert all((one == other).all() for one, other in zip(kept, copies))
    made.close()
