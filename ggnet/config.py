"""The one configuration schema: typed, documented, and strict about unknown keys.

A configuration is the defaults below, then a preset or YAML file, then `key=value` overrides
(`train.epochs=3`). A misspelt key is an error that names the nearest one.
"""

import difflib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ggnet.errors import UserError, reader, reading
from ggnet.old_settings import modernize

PRESETS = Path(__file__).parent / "configs"


def _backbone(name: str) -> Any:
    from ggnet.models import backbone_class  # imports torch: slow, and it imports this module

    return backbone_class(name)


C = TypeVar("C", bound="Config")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """What network to build. The switches are those of the paper's Tables 1 to 3."""

    backbone: str = Field("tiny", description="a name of ggnet.models.BACKBONES, or timm:NAME")
    width: int = Field(32, ge=16, description="channels of the tiny backbone's feature map")
    aggregation: Literal[
        "gaze",
        "interaction",
        "interaction+human",
        "interaction+object",
        "interaction+human+object",
        "actpoints",
    ] = Field(
        "gaze",
        description="features behind the verb scores (Table 3): GGNet's glance and gaze; the "
        "interaction point alone (PPDM); with the human's and/or object's point; ActPoints "
        "without glance and gaze",
    )
    gaze_steps: int = Field(2, ge=0, le=3, description="Table 2; used by aggregation=gaze")
    points_per_step: Literal[9, 25, 49] = Field(25, description="ActPoints a step (Table 2)")
    shared_features: bool = Field(False, description="one feature convolution for all gaze steps")
    apm: bool = Field(True, description="offsets for each verb separately (action-aware matching)")
    checkpointing: Literal["none", "heads", "all"] = Field(
        "none",
        description="what training computes again in the backward pass, to need less memory: the "
        "same losses and gradients, more time; all: heads and backbone",
    )

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        _backbone(name)
        return name

    @property
    def stride(self) -> int:
        """Pixels of a cell's side, as the backbone declares it."""
        return _backbone(self.backbone).stride


class LossConfig(_Section):
    """Loss terms and weights; defaults are the paper's (Eq. 4 to 7, Tables 6 and 7)."""

    interaction: Literal["hna", "focal"] = "hna"
    alpha: float = Field(2.0, ge=0)
    beta: float = Field(
        7.0, ge=0, description="power of the weight of a hard negative's center (Table 6)"
    )
    beta_ramp: float = Field(
        0.0, ge=0, le=1, description="share of the training over which beta grows from 0"
    )
    hard_negatives: Literal["all", "glance", "gaze"] = Field(
        "all", description="the verb maps that see them; gaze: those of the gaze steps"
    )
    gamma: float = Field(4.0, ge=0)
    eps: float = Field(1e-4, gt=0, lt=0.5)
    hard_negative_radius: int = Field(3, ge=0, description="cells")
    target_style: Literal["split", "same"] = Field(
        "split",
        description="split: gaze steps see sharper positives (factor 8) and wider hard negatives "
        "(factor 2) than the glance step (6 and 6); same: 6 and 6 everywhere",
    )
    glance_weight: float = Field(0.1, ge=0)
    gaze_weight: float = Field(0.1, ge=0, description="of every gaze step but the last")
    size_weight: float = Field(0.1, ge=0)
    center_weight: float = Field(1.0, ge=0)
    offset_weight: float = Field(0.1, ge=0, description="lambda_1 (Table 7)")
    offset_reduction: Literal["mean", "sum"] = Field(
        "mean", description="over stacks; the published code sums"
    )


class DataConfig(_Section):
    """Where the images are and how they are fed."""

    root: str = "data/scenes"
    hois_unseen: str | tuple[int, ...] | None = Field(
        None,
        description="HOIs kept from training and reported apart (zero-shot): rf-uc, nf-uc, uo or "
        "uv of HICO-DET, or a JSON file with a list of indices or [verb, object]",
    )
    input_size: tuple[int, int] = Field((128, 128), description="height and width in pixels")
    augment: bool = True
    scale: tuple[float, float] = Field((0.7, 1.3), description="random scale of the crop")
    shift: bool = Field(True, description="random crop center")
    flip: float = Field(0.5, ge=0, le=1)
    color: bool = True
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that load images; null: 1, or for a GPU all cores that this "
        "process may use but one, at most 8",
    )
    max_objects: int = Field(128, ge=1)
    max_pairs: int = Field(64, ge=1)
    compat: Literal["none", "original"] = Field(
        "none",
        description="original: sample images and truncate boxes as the published code does",
    )


class TrainConfig(_Section):
    """Optimization, precision, bookkeeping; null is off."""

    init: str | None = Field(
        None,
        description="weights to start from: a file of `ggnet import`, a checkpoint or a run; timm: "
        "those of the timm backbone",
    )
    epochs: int = Field(120, ge=1)
    batch_size: int = Field(16, ge=1, description="images a step and process")
    accumulate: int = Field(1, ge=1, description="micro-batches a step")
    lr: float = Field(1.5e-4, gt=0)
    lr_batch: int | None = Field(
        None,
        ge=1,
        description="images a step, in all processes, that lr is meant for: with others it is "
        "scaled in proportion; null: lr as it is",
    )
    lr_schedule: Literal["step", "onecycle"] = Field(
        "step", description="step: the paper's x0.1 at lr_steps; onecycle: for short runs"
    )
    lr_steps: tuple[int, ...] = Field((90, 120), description="epochs after which lr drops to 0.1x")
    glance_lr_multiplier: float = Field(10.0, gt=0, description="the published code's value")
    clip: float | None = Field(None, gt=0, description="gradient norm limit")
    precision: Literal["float32", "bf16"] = "float32"
    execution: Literal["eager", "compile", "capture"] = Field(
        "eager",
        description="of the network in training; compile: by torch.compile, minutes before the "
        "first step; capture: as CUDA graphs, for one GPU",
    )
    sync_batchnorm: bool = Field(
        False, description="batch statistics over all processes' images, on GPUs"
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average")
    device: str = Field("auto", description="auto, cpu, cuda")
    seed: int = Field(317, ge=0)
    deterministic: bool = False
    checkpoint_minutes: float | None = Field(
        5.0, gt=0, description="time between checkpoints; one is written after each epoch anyway"
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="steps between checkpoints")
    eval_every: int | None = Field(
        None, ge=1, description="epochs between evaluations; there is one at the end anyway"
    )
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",), description="where figures go beside results.csv; see docs/training.md"
    )


class EvalConfig(_Section):
    """Decoding and evaluation."""

    k: int = Field(100, ge=1, le=1024, description="peaks of each kind and triplets an image")
    rule: Literal["product", "distance"] = "product"
    allow_same: bool = Field(
        False,
        description="one detection may be human and object of a triplet, as in the published code",
    )
    verb_exponent: float = Field(
        1.0, gt=0, description="power of the verb's score in a triplet's; below 1 it counts less"
    )
    gaze_cells: int | None = Field(
        None,
        ge=1,
        description="cells at which the gaze steps are computed, those of the highest glance "
        "scores; null: all",
    )
    batch_size: int = Field(16, ge=1)
    protocol: Literal["official", "ppdm", "no-frills"] = Field(
        "official", description="HICO's evaluator to follow; see ggnet.eval.hico"
    )
    recall_points: Literal["exact", "double"] = Field(
        "exact",
        description="of HICO's 11-point AP; double: rounded as the official script's",
    )
    rare_threshold: int = Field(10, ge=1, description="HOIs with fewer training instances are rare")
    partial: bool = Field(
        False, description="score the images that are there, although some of the split are missing"
    )


class ScenesConfig(_Section):
    """The bundled dataset that `ggnet demo` generates."""

    train: int = Field(2000, ge=1, description="training images")
    test: int = Field(300, ge=1, description="test images")
    size: int = Field(128, ge=96, description="side of the square images in pixels")
    seed: int = Field(0, ge=0)


class Config(_Section):
    """The whole configuration."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="before")
    @classmethod
    def _read_old_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values, notes = modernize(values, keep=cls.model_fields)
        if notes:
            logging.getLogger("ggnet").warning(
                "the configuration has settings of an older version, which the next one will not "
                f"read any more: {'; '.join(notes)}"
            )
        return values

    @model_validator(mode="after")
    def _input_fits_backbone(self) -> "Config":
        multiple = _backbone(self.model.backbone).size_multiple
        if any(side <= 0 or side % multiple for side in self.data.input_size):
            raise ValueError(
                f"data.input_size is {list(self.data.input_size)}; backbone "
                f"{self.model.backbone} needs multiples of {multiple}"
            )
        return self

    @model_validator(mode="after")
    def _init_is_of_backbone(self) -> "Config":
        if self.train.init == "timm" and not self.model.backbone.startswith("timm:"):
            raise ValueError(
                "train.init=timm means the pretrained weights of model.backbone=timm:NAME, and the "
                f"backbone is {self.model.backbone} (of a file named timm: ./timm)"
            )
        return self

    @model_validator(mode="after")
    def _switches_agree(self) -> "Config":
        if self.model.apm and self.model.aggregation.startswith("interaction+"):
            raise ValueError(
                f"model.aggregation is {self.model.aggregation}, which reads features at one "
                "predicted offset; it needs model.apm=false"
            )
        gazes = self.model.aggregation == "gaze" and self.model.gaze_steps > 0
        if self.loss.hard_negatives != "all" and not gazes:
            raise ValueError(
                f"loss.hard_negatives is {self.loss.hard_negatives}, which tells the glance map "
                "from those of gaze steps, and the model has no gaze step; expected all"
            )
        return self

    @model_validator(mode="after")
    def _capture_is_possible(self) -> "Config":
        if self.train.execution != "capture":
            return self
        if self.train.accumulate > 1:
            raise ValueError(
                "train.execution=capture writes each gradient over the last one, and "
                f"train.accumulate is {self.train.accumulate}; expected 1"
            )
        if self.model.checkpointing != "none":
            raise ValueError(
                "train.execution=capture keeps what the forward pass computes, and "
                f"model.checkpointing is {self.model.checkpointing}; expected none"
            )
        if _backbone(self.model.backbone).random:
            raise ValueError(
                "train.execution=capture draws random numbers while it captures, which a resumed "
                f"run would draw anew, and model.backbone={self.model.backbone} may use them; "
                "expected eager or compile"
            )
        return self


class DemoConfig(Config):
    """The configuration of `ggnet demo`, which makes its dataset."""

    scenes: ScenesConfig = ScenesConfig()

    def of_training(self) -> Config:
        """What training needs of it."""
        return Config.model_validate(self.model_dump(exclude={"scenes"}))


def load_config(
    source: str | Path | None = None, overrides: Iterable[str] = (), schema: type[C] = Config
) -> C:
    """Defaults, then `source` (a preset's name or a YAML file), then `section.key=value` items.

    Args:
        schema: Config, or DemoConfig.

    Raises:
        UserError: no such preset or file, YAML that does not parse, an unknown key (with the
            nearest known one), a value of the wrong type or out of range.
    """
    values = _read(source) if source is not None else {}
    return _overridden(values, overrides, str(source or "configuration"), schema)


def override(config: Config, overrides: Iterable[str], origin: str = "configuration") -> Config:
    """A copy of `config` with `section.key=value` items applied; raises as `load_config`.

    Args:
        origin: where they come from, for messages.
    """
    return _overridden(config.model_dump(), overrides, origin, type(config))


def _overridden(
    values: dict[str, Any], overrides: Iterable[str], origin: str, schema: type[C]
) -> C:
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"override '{item}' is not of the form section.key=value")
        *sections, name = key.strip().split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UserError(f"override '{item}': '{section}' is not a section")
        try:
            node[name] = _parse_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"override '{item}': '{text}' is not a YAML value") from None
    return parse_config(values, origin, schema)


def describe(config: Config) -> str:
    """The configuration as YAML, each key with what it means; `load_config` reads it back."""
    lines = []
    for name, field in type(config).model_fields.items():
        section = getattr(config, name)
        lines.append(f"{name}:  # {field.annotation.__doc__.strip().splitlines()[0]}")
        for key, value in section.model_dump(mode="json").items():
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            note = type(section).model_fields[key].description
            lines.append(f"  {key}: {text}" + (f"  # {note}" if note else ""))
    return "\n".join(lines) + "\n"


def parse_config(
    values: dict[str, Any], origin: str = "configuration", schema: type[C] = Config
) -> C:
    """Validate nested plain values; every problem is listed in one UserError."""
    with reading(origin, "sections with settings"):
        try:
            return schema.model_validate(values)
        except ValidationError as error:
            problems = "\n".join(f"  {_explain(item, schema)}" for item in error.errors())
            raise UserError(f"{origin} is not valid:\n{problems}") from None


@reader("YAML with sections of settings")
def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{source}.yaml"
        if not path.exists():
            names = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
            match = _nearest(str(source), names)
            hint = f"; did you mean '{match}'?" if match else ""
            raise UserError(
                f"no preset '{source}'{hint}. Presets: {', '.join(names)}; or a .yaml file"
            )
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}; expected sections with keys")
    # "train:" with nothing below it is an empty section
    return {name: {} if section is None else section for name, section in values.items()}


class _Loader(yaml.SafeLoader):
    """Without aliases: nine of them in a row make a billion values of a few bytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported; write the value out", mark
            )
        return super().compose_node(parent, index)


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (RecursionError, ValueError) as error:  # nested without end; a date that is none
        raise yaml.YAMLError(str(error)) from None


def _explain(item: dict[str, Any], schema: type[Config]) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        text = item["msg"].removeprefix("Value error, ")
        if not location:
            return text
        got = f"got {item['input']!r}"
        if len(item["loc"]) > 1:  # a key of a section
            section, name = item["loc"][:2]
            default = schema.model_fields[section].default.model_dump(mode="json")[name]
            got += f"; the default is {default!r}"
        return f"{location}: {text.replace('valid tuple', 'list')} ({got})"
    *sections, name = (str(part) for part in item["loc"])
    section: Any = schema
    for part in sections:
        section = section.model_fields[part].annotation
    # a key of this section, or one given without its section
    known = {}
    if not sections:
        for part, field in schema.model_fields.items():
            known |= {key: f"{part}.{key}" for key in field.annotation.model_fields}
    known |= {key: ".".join([*sections, key]) for key in section.model_fields}
    match = _nearest(name, known)
    if match and isinstance(item["input"], dict) and len(item["input"]) == 1:  # trian.epochs=3
        [child] = item["input"]
        location, known[match] = f"{location}.{child}", f"{known[match]}.{child}"
    remedy = f"did you mean '{known[match]}'?" if match else "--print-config lists all keys"
    return f"unknown key '{location}'; {remedy}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    match = difflib.get_close_matches(name, list(known), n=1)
    return match[0] if match else None
