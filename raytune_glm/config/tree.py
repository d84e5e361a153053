"""The sections of a sweep file. Each is frozen and refuses keys that it does not know.

`RunConfig` is what one trial trains; `SweepConfig` adds the search over it. Read next: `load`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from raytune_glm.config.agreement import disagreements, unknown_metric
from raytune_glm.config.deepspeed_config import read_file, section_values
from raytune_glm.data import DataConfig
from raytune_glm.errors import shown
from raytune_glm.methods import AnyMethod
from raytune_glm.search import SearchSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raytune_glm.models import Checkpoint


def _known_family(name: str | None) -> str | None:
    from raytune_glm.models import FAMILIES

    if name is not None and name not in FAMILIES:
        raise ValueError(f"must be one of {', '.join(FAMILIES)}, but got {name!r}")
    return name


LearningRate: TypeAlias = Annotated[float, Field(gt=0, lt=10)]
RateFactor: TypeAlias = Annotated[str, Field(pattern=r"^[0-9]*\.?[0-9]+x$")]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelSettings(_Section):
    """The base model."""

    path: str
    """Folder of a checkpoint in its published layout, or a hub id such as `THUDM/chatglm3-6b`."""
    family: Annotated[str | None, AfterValidator(_known_family)] = None
    """Model family, where the folder's own files do not tell it."""
    template: str | None = None
    """Instruction template of Alpaca-LoRA (`alpaca`, `alpaca_legacy`, `alpaca_short`, `vigogne`)
    for LLaMA and others without a fixed chat format; none: the model's own."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the weights and of the arithmetic; fp16 trains with a dynamic loss scale."""
    quantization: Literal["int8", "nf4"] | None = None
    """Store the base's linears in 8 or 4 bits by bitsandbytes; adapters stay in `precision`."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto"
    """Attention function. `auto`: FlashAttention 2 on a GPU where it is installed and the model and
    its precision can have it, else PyTorch's SDPA, which is right everywhere."""

    def inspect(self) -> Checkpoint:
        """Look at the checkpoint without torch.

        Raises:
            ModelError: It cannot be used.
            ConfigError: The family or the template does not fit it.
        """
        from raytune_glm.models import inspect_folder

        return inspect_folder(
            self.path, self.family, template=self.template, quantization=self.quantization
        )

    def check(self, model: Checkpoint) -> None:
        """Refuse what the checkpoint cannot be loaded with.

        Raises:
            ModelError: The setting, its value and what to write instead.
        """
        model.check(
            precision=self.precision, quantization=self.quantization, attention=self.attention
        )

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the checkpoint's tokenizer."""
        from raytune_glm.models import load_tokenizer

        return load_tokenizer(self.path, family=self.family)

    def load(self, device: str) -> PreTrainedModel:
        """Load the model onto a device, in its precision, quantization and attention."""
        from raytune_glm.models import load_model
        from raytune_glm.models.linears import speed_up_linears

        model = load_model(
            self.path,
            precision=self.precision,
            quantization=self.quantization,
            device=device,
            attention=self.attention,
        )
        speed_up_linears(model)
        return model


class TrainSettings(_Section):
    """How a trial trains."""

    learning_rate: LearningRate = 1e-4
    """Peak learning rate of AdamW."""
    learning_rates: dict[str, LearningRate | RateFactor] = {}
    """Other peak rates by whole dotted parts of parameter names: a rate, or a multiple of
    `learning_rate` such as `16x`. `{lora_B: 16x}` is LoRA+ (arXiv 2402.12354)."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows in one optimizer step, over all workers: micro-batch x accumulation x workers."""
    micro_batch_size: Annotated[int, Field(ge=1)] = 4
    """Rows in one forward pass of one worker. Changes memory and speed, not the result."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps of a trial; write this or `epochs`."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training rows, rounded up to whole steps."""
    schedule: Literal["linear", "cosine", "constant", "warmup_decay"] = "linear"
    """Learning rate after the warm-up: down to 0 in a line or half a cosine, or flat. But
    `warmup_decay` is that of ChatGLM-Finetuning: from a tenth of the peak up along a logarithm,
    and back to a tenth in a line."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises in a line from 0 to its peak."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps in which it rises, in place of that share."""
    group_by_length: bool = False
    """Batches of rows of like length, drawn from 50 batches at a time: less padding, rows in a less
    random order."""
    packing: bool = False
    """Several rows one behind the other, up to `data.max_length` tokens, each seeing itself alone:
    no padding, the same result. `micro_batch_size` then counts packed rows."""
    neftune_noise_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings of a training row of L tokens of size d, uniform within
    alpha / sqrt(L d) (NEFTune, arXiv 2310.05914, which tries 5, 10 and 15); none: no noise."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    """AdamW's moment decay rates. (0.9, 0.95) as in ChatGLM-Finetuning."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients of a step are scaled down to this 2-norm; none: never."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1234
    """Seed of initialisation, data order and dropout."""
    eval_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between two evaluations on dev; none: only after the last step."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations in a row that may be no better than the best one before the trial ends, COMPLETE
    with that one; none: the trial takes all its steps."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows of dev in one forward pass of one worker."""
    metrics: tuple[str, ...] = ()
    """Metrics to measure at an evaluation beside `eval_loss` and `search.metric`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest answer, in tokens, that an evaluation generates."""
    save_total_limit: Annotated[int, Field(ge=1)] = 3
    """How many of a trial's best adapters stay on disk, beside its last state to go on from. Below
    3 the best one may be a later one than the leaderboard speaks of, where a scheduler stopped the
    trial: its workers are an evaluation or two ahead of the sweep."""
    log_every_steps: Annotated[int, Field(ge=1)] = 10
    """Optimizer steps between two lines of `train.jsonl` in the trial's folder."""

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError(
                "exactly one of `max_steps` and `epochs` must be given, but got "
                f"max_steps={shown(self.max_steps)}, epochs={shown(self.epochs)}: give one, unset "
                "the other by train.max_steps=null or train.epochs=null"
            )
        if self.patience is not None and self.eval_every_steps is None:
            raise ValueError(
                "`patience` must have `eval_every_steps` beside it, or there is one evaluation "
                f"alone, but got patience={self.patience}"
            )
        if self.packing and self.group_by_length:
            raise ValueError(
                "`group_by_length` must be false where `packing` is true, which leaves no padding "
                "to save"
            )
        return self

    def warmup_share(self, total_steps: int) -> float:
        """Give the share of a trial's steps in which the learning rate rises."""
        if self.warmup_steps is None:
            return self.warmup_ratio
        return min(1.0, self.warmup_steps / total_steps)

    def peak_rate(self, pattern: str | None = None) -> float:
        """Give the peak learning rate under a pattern of `learning_rates`, or that of the rest."""
        rate = self.learning_rate if pattern is None else self.learning_rates[pattern]
        if isinstance(rate, str):
            return self.learning_rate * float(rate.removesuffix("x"))
        return rate


class DeepSpeedSettings(_Section):
    """How DeepSpeed spreads a trial over its workers."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """0: a worker holds all; 1 spreads the optimizer's state, 2 gradients too, 3 weights too."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where the optimizer's state is and its step is taken, for ZeRO 1 to 3: on the device, in the
    host's memory (DeepSpeed's CPU-Adam), or for ZeRO-3 on a disk of its own."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where weights wait until a layer needs them, for ZeRO-3."""
    nvme_path: Path | None = None
    """Folder of every worker's host on a fast disk, for what is offloaded to `nvme`."""
    config: dict[str, Any] | None = None
    """A DeepSpeed configuration of your own: its JSON file, or the mapping itself. Taken as it is;
    `"auto"` becomes the run's value, and a value that contradicts the run's is refused."""

    @model_validator(mode="before")
    @classmethod
    def _take_from_config(cls, given: Any) -> Any:
        """Let a configuration of the user's say what the section itself leaves open."""
        if not isinstance(given, dict) or given.get("config") is None:
            return given
        config = read_file(given["config"])
        said = section_values(config) if isinstance(config, dict) else {}
        return {**said, **given, "config": config}

    @model_validator(mode="after")
    def _check_offload(self) -> DeepSpeedSettings:
        stage = self.zero_stage
        if self.offload_optimizer != "none" and stage == 0:
            raise ValueError(
                "zero_stage must be 1 to 3 where the optimizer is offloaded, but got zero_stage=0 "
                f"with offload_optimizer={self.offload_optimizer}"
            )
        if self.offload_parameters != "none" and stage < 3:
            raise ValueError(
                "zero_stage must be 3 where weights are offloaded, but got "
                f"zero_stage={stage} with offload_parameters={self.offload_parameters}"
            )
        to_disk = "nvme" in (self.offload_optimizer, self.offload_parameters)
        if to_disk and stage < 3:
            raise ValueError(
                "zero_stage must be 3 for an offload to nvme, but got "
                f"zero_stage={stage}: offload to cpu, or use ZeRO-3"
            )
        if to_disk != (self.nvme_path is not None):
            raise ValueError(
                "nvme_path must be given where something is offloaded to nvme, and only there, but "
                f"got nvme_path={self.nvme_path or 'null'} with "
                f"offload_optimizer={self.offload_optimizer}, "
                f"offload_parameters={self.offload_parameters}"
            )
        return self

    @property
    def compiled_ops(self) -> frozenset[str]:
        """Names of the operations that DeepSpeed compiles on a host before it can do this."""
        ops = {"cpu_adam"} if self.offload_optimizer != "none" else set()
        return frozenset(ops | ({"async_io"} if self.nvme_path is not None else set()))


class RunSettings(_Section):
    """Where and on what a sweep runs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "sweep"
    """Name of the results folder inside `storage`: letters, digits, dot, underscore, dash."""
    storage: Path = Path("results")
    """Folder of results; on several hosts, one that all of them see under this path."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Workers (processes, one device each) of one trial."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """Logical CPUs that Ray reserves for a worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] | None = None
    """GPUs that Ray reserves for a worker; none: 1 where the cluster has any, else 0."""
    memory_per_worker_bytes: Annotated[float, Field(gt=0)] | None = None
    """Most memory that a worker may take, such as 20e9: of its GPU; without one, of the host beyond
    what the loaded model takes. A trial that does not fit goes down the out-of-memory ladder, and
    ends INFEASIBLE below its last rung; none: what the device has."""
    disk_budget_gb: Annotated[float, Field(gt=0)] | None = None
    """Most that the checkpoints of all trials may take, in 1e9 bytes; none: what the disk has. Over
    it, adapters of finished trials go, the worst first and the best trial's never; where that is
    not enough the sweep stops, and goes on with the same command."""
    execution: Literal["auto", "packed", "solo"] = "auto"
    """`auto`: trials share one base in one process a device, and its passes where their settings
    allow; `packed`: refused unless all share passes; `solo`: each has workers of its own."""
    pack_size: Annotated[int, Field(ge=1)] | None = None
    """Trials in one pack; none: 8, and no more than half of the sweep's where the later half gains
    by it (all of them for `pbt`), and fewer where that is measured to be faster. A pack for which
    memory does not suffice takes them in turns. Where it is set, hosts have no second process."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """How often a trial whose worker died starts again from its last checkpoint."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Where to tell what trials measure, beside the files and TensorBoard's events in their
    folders: Weights & Biases, MLflow. Each needs its package, and takes its own settings from the
    environment (`WANDB_MODE`, `MLFLOW_TRACKING_URI`, ...)."""
    ray_address: str = "auto"
    """`auto`: the cluster of RAY_ADDRESS or one running on this host, else a local one made for
    this sweep; `local`: always a local one; else the address of a cluster."""

    @property
    def folder(self) -> Path:
        """The results folder of the sweep."""
        return self.storage / self.name


class RunConfig(_Section):
    """All that one trial is made of."""

    model: ModelSettings
    data: DataConfig
    method: AnyMethod
    train: TrainSettings
    deepspeed: DeepSpeedSettings = DeepSpeedSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        faults = list(self._disagreements())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _disagreements(self) -> Iterator[str]:
        return disagreements(self)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Forward passes of a worker in one optimizer step."""
        return self.train.batch_size // (self.train.micro_batch_size * self.run.num_workers)


class SweepConfig(RunConfig):
    """A sweep file: a run, and the search over it."""

    search: SearchSettings = SearchSettings()

    def _disagreements(self) -> Iterator[str]:
        yield from super()._disagreements()
        yield from unknown_metric("search.metric", self.search.metric)
