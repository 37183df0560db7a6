"""What a training run can be told: one dataclass, of which the command line and TOML are made."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from shoal.errors import ConfigError, did_you_mean

__all__ = [
    "Config",
    "described",
    "from_dict",
    "kept",
    "masked",
    "require_secrets",
    "to_dict",
    "typed",
]

MASK = "***"
SECRET = re.compile(r"token|secret|passw|credential|private|(^|[_-])(api)?keys?$|apikey", re.I)


@dataclass(frozen=True)
class Config:
    """Everything that decides how a run goes. The same config gives the same run."""

    env: str
    """Environment: an id, module.name, or file.py:creator."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor (in TOML a table, on the command line
    key value pairs)."""
    total_steps: int = 1_000_000
    """Transitions to learn from, counted over all agents; a run ends with the rollout that reaches
    them."""
    seed: int = 1
    """Seed of environments, weights, actions and minibatches."""

    # -- collecting --
    num_envs: int | None = None
    """Number of environments; default: as many as make 256 rows of native or batched ones, 8 of
    others."""
    num_workers: int | None = None
    """Processes that step environments; 0: this one; default: what a short trial finds fastest."""
    batch_size: int | None = None
    """Environments in one batch; fewer than num_envs steps some while the policy acts on others."""
    horizon: int | None = None
    """Steps of each agent in one rollout, and the length of a training sequence; default: 64 of
    native or batched environments, 128 of others; fewer where a rollout would have more than 65,536
    steps of all agents together, but at least 8."""
    max_len: int | None = None
    """Most items of a Sequence, Graph or string of no fixed length."""
    max_agents: int | None = None
    """Rows of an environment whose agents come and go."""
    pad: bool = False
    """Pad agents whose spaces differ to one layout."""

    # -- learning --
    learning_rate: float = 1e-3
    """Learning rate of Adam; of Muon for matrices."""
    anneal: Literal["linear", "cosine", "none"] = "linear"
    """How the learning rate falls to 0 over the run."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Muon updates matrices with orthogonalised momentum, and leaves the rest to Adam; it needs
    torch 2.9."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    gamma: float = 0.99
    """Discount of future rewards."""
    gae_lambda: float = 0.95
    """Bias (0) against variance (1) of the advantages."""
    vtrace_rho: float | None = None
    """Clip of the importance weight of each step's error (V-trace); none: plain GAE."""
    vtrace_c: float | None = None
    """Clip of the importance weight of what follows; needs vtrace_rho."""
    update_epochs: float = 4.0
    """Passes over each rollout; the last may be a part of one, such as 0.5."""
    minibatch_size: int | None = None
    """Steps of all agents in one minibatch, about: as many minibatches as fit are equally large;
    default: a 16th part of a rollout of native or batched environments, a quarter of others."""
    accumulate: int = 1
    """Parts that a minibatch is computed in, to save memory; the gradient is the same."""
    clip: float = 0.2
    """How far the probability ratio may move from 1 before it stops paying."""
    value_clip: float | None = None
    """How far a value may move, in units of return; none: not clipped."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_gradient_norm: float = 0.5
    """Scale gradients down to this norm."""
    target_kl: float | None = None
    """End the passes over a rollout once the policy has moved this far; none: never."""
    normalize_advantages: bool = True
    """Scale advantages to zero mean and unit variance in each minibatch."""
    normalize_observations: bool = False
    """Scale continuous observation leaves by their running mean and variance."""
    normalize_rewards: bool = False
    """Divide rewards by the running deviation of the discounted return, and clip them to ±10."""
    reward_clip: float | None = None
    """Clip rewards to plus or minus this."""

    # -- policy --
    policy: str = "default"
    """"default", or file.py:Class or module:Class of your own torch module."""
    hidden_size: int = 128
    """Width of the default policy."""
    memory: Literal["none", "lstm", "mingru"] = "none"
    """What the policy remembers observations with: an LSTM, or a MinGRU, which is faster."""
    squash: bool = False
    """Squash continuous actions through tanh instead of clipping them."""

    # -- machine --
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; auto: CUDA where there is any."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the network's arithmetic; parameters stay float32. Auto: bfloat16 if a
    minibatch is at least 1.2 times as fast with it, else float32."""
    tf32: bool = False
    """Let CUDA round float32 matrix products to TF32."""
    compile: bool = False
    """torch.compile the policy: minutes to start, faster afterwards."""
    torch_threads: int = 1
    """CPU threads of torch; small networks are fastest with one."""

    # -- run --
    runs_dir: str = "runs"
    """Folder in which the run's own folder is made."""
    name: str | None = None
    """Name of the run; default: environment, time and seed."""
    group: str | None = None
    """Group of runs that trackers show together; a sweep names itself here."""
    checkpoint_interval: int = 50
    """Updates between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 3
    """Number of latest checkpoints that are kept, besides the best one."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    wandb: bool = False
    """Report to Weights & Biases (offline without a login)."""
    neptune: bool = False
    """Report to Neptune."""
    trackio: bool = False
    """Report to Trackio."""
    display: Literal["auto", "dashboard", "lines", "none"] = "auto"
    """How a run shows its progress; auto: a dashboard in a terminal, else lines."""

    def __post_init__(self) -> None:
        check(self)


def check(config: Config) -> None:
    """Raise ConfigError for a value that can't be meant."""
    at_least = {
        1: (
            "total_steps num_envs horizon minibatch_size accumulate hidden_size "
            "checkpoint_interval keep_checkpoints batch_size max_len max_agents torch_threads"
        ),
        0: (
            "seed num_workers adam_eps weight_decay entropy_coefficient value_coefficient "
            "gamma gae_lambda"
        ),
    }
    for low, names in at_least.items():
        for name in names.split():
            value = getattr(config, name)
            if value is not None and not value >= low:
                raise ConfigError(f"{name}: expected at least {low}, got {value}")
    more_than_0 = (
        "learning_rate clip max_gradient_norm vtrace_rho vtrace_c value_clip target_kl reward_clip "
        "update_epochs"
    )
    for name in more_than_0.split():
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: expected more than 0, got {value}")
    for name in ("gamma", "gae_lambda"):
        if getattr(config, name) > 1:
            raise ConfigError(f"{name}: expected 0 to 1, got {getattr(config, name)}")
    if (config.vtrace_rho is None) != (config.vtrace_c is None):
        raise ConfigError("vtrace_rho and vtrace_c: give both, or neither")
    num_envs = math.inf if config.num_envs is None else config.num_envs
    if config.batch_size is not None and config.batch_size > num_envs:
        raise ConfigError(
            f"batch_size: expected at most num_envs ({config.num_envs}), got {config.batch_size}"
        )
    if config.num_workers is not None and config.num_workers > num_envs:
        raise ConfigError(
            f"num_workers: expected at most num_envs ({config.num_envs}), got {config.num_workers}"
        )
    for name in ("anneal", "optimizer", "memory", "precision", "display"):
        allowed, value = get_args(get_type_hints(Config)[name]), getattr(config, name)
        if value not in allowed:
            raise ConfigError(
                f"{name}: expected one of {', '.join(allowed)}, got {value!r}"
                f"{did_you_mean(str(value), allowed)}"
            )


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain values, for JSON; TOML leaves out what is None."""
    return dataclasses.asdict(config)


def kept(config: Config) -> dict[str, Any]:
    """Return the config as plain values for files and trackers, with secrets masked."""
    return {**to_dict(config), "env_kwargs": masked(config.env_kwargs)}


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with `MASK` in place of those whose names look like secrets."""
    return {
        name: MASK
        if SECRET.search(str(name))
        else masked(value)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def require_secrets(values: Mapping[str, Any]) -> None:
    """Raise ConfigError if a value of the environment is one that was masked."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            require_secrets(value)
        elif isinstance(value, str) and value == MASK:
            raise ConfigError(
                f"env_kwargs: the value of {name} was not kept, because it looks like a secret; "
                f"give it again: --env-kwargs {name}=VALUE"
            )


def from_dict(values: Mapping[str, Any]) -> Config:
    """Return a Config from plain values, as a TOML or JSON file holds them.

    A whole number in any spelling (``1e8``) is taken where an integer is expected.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a value of the wrong type, or
            one that can't be meant.
    """
    made = typed(values)
    if "env" not in made:
        raise ConfigError("env: missing")
    return Config(**made)


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values as the options that they name, in their types; check nothing else."""
    known = {f.name: str(f.type) for f in dataclasses.fields(Config)}
    made = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"{key}: no such option{did_you_mean(name, known)}")
        made[name] = _typed(name, value, known[name])
    return made


def _typed(name: str, value: Any, expected: str) -> Any:
    kind = expected.removesuffix(" | None")
    if value is None and kind != expected:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    right = {
        "int": number and float(value).is_integer(),
        "float": number and math.isfinite(value),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "dict[str, Any]": isinstance(value, Mapping),
    }.get(kind, True)
    if not right:
        raise ConfigError(f"{name}: expected {kind}, got {value!r}")
    return {"int": int, "float": float}.get(kind, lambda same: same)(value)


def described() -> list[tuple[str, str, str, str, str]]:
    """Return (section, name, type, default, text) of each field of Config, from its source."""
    source = inspect.getsource(Config)
    lines = source.splitlines()
    tree: Any = ast.parse(source).body[0]
    body = tree.body[1:]  # without the docstring
    found, section = [], "environment"
    for at, (node, following) in enumerate(itertools.pairwise(body)):
        if not isinstance(node, ast.AnnAssign):
            continue
        before = body[at - 1].end_lineno if at else 0
        for line in lines[before : node.lineno - 1]:
            if line.strip().startswith("# -- "):
                section = line.strip(" #-")
        text = ast.literal_eval(following.value) if isinstance(following, ast.Expr) else ""
        default = ast.unparse(node.value) if node.value else "required"
        if default.startswith("field("):
            default = "{}"
        kind = ast.unparse(node.annotation).removesuffix(" | None")
        if kind.startswith("Literal["):
            kind = " or ".join(kind[8:-1].replace("'", "").split(", "))
        kind = {"dict[str, Any]": "table"}.get(kind, kind)
        if default == "None":
            default = "–"
        found.append((section, ast.unparse(node.target), kind, default, " ".join(text.split())))
    return found
