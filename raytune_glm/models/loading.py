"""Load a checkpoint's weights, refusing what is missing, surplus or damaged by name.

Weights go through transformers' own loader: the model is laid out on the meta device, so that they
are in memory once, and `.bin` files are read with `weights_only`. Read next: `chatglm.modeling`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raytune_glm.errors import ModelError
from raytune_glm.models import folder as folders
from raytune_glm.models.attention import chosen_implementation
from raytune_glm.models.loss import skip_unlabelled_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytune_glm.models import Attention, Precision, Quantization
    from raytune_glm.models.family import Family, ModelShape

log = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MAX_NAMES_SHOWN = 5
_NF4_BLOCK = 64
"""Weights that share a scale in bitsandbytes' nf4; its CPU kernel needs whole blocks in a row."""
_register_lock = threading.Lock()


def load(
    folder: Path,
    config: Mapping[str, Any],
    family: Family,
    *,
    precision: Precision,
    quantization: Quantization | None,
    device: str,
    attention: Attention,
) -> PreTrainedModel:
    """Load the weights of a checkpoint folder; arguments and errors as `models.load_model`."""
    _check_choices(precision, quantization)
    folders.check_quantization(config, quantization)
    files = folders.weight_files(folder)
    arguments: dict[str, Any] = {
        "dtype": _DTYPES[precision],
        "attn_implementation": chosen_implementation(
            attention,
            family,
            precision=precision,
            device=device,
            class_supports_flash=_supports_flash(family, config),
        ),
    }
    if quantization is not None:
        _check_quantizable(family.shape(config, folder), quantization, device)
        arguments["quantization_config"] = _bitsandbytes(quantization, _DTYPES[precision])
    if device != "cpu" or quantization is not None:
        arguments["device_map"] = {"": device}
    try:
        with _quiet():
            model, report = family.model_class().from_pretrained(
                folder,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                # Refused below with the tensors' names, which transformers' own error lacks.
                ignore_mismatched_sizes=True,
                **arguments,
            )
    except ModelError:
        raise
    except Exception as error:  # each reader of weights raises its own kind
        _blame_file(files, error)
        raise ModelError(
            f"the model in {folder} cannot be loaded ({type(error).__name__}: {error})."
        ) from error
    _refuse_unfit(folder, report)
    log.debug("loaded %s as %s from %s", family.name, precision, folder)
    loaded: PreTrainedModel = model
    return _ready(loaded)


def load_random(
    config: Mapping[str, Any],
    family: Family,
    *,
    precision: Precision,
    quantization: Quantization | None,
    device: str,
    attention: Attention,
) -> PreTrainedModel:
    """Build a model with weights drawn from torch's generator.

    Args:
        config: What a `config.json` says.
        family: Its family.
        precision: See `models.load_model`.
        quantization: See there. Each linear is quantised after it is drawn.
        device: See there.
        attention: See there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _check_choices(precision, quantization)
    folders.check_quantization(config, quantization)
    dtype = _DTYPES[precision]
    model_class = family.model_class()
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": chosen_implementation(
            attention,
            family,
            precision=precision,
            device=device,
            class_supports_flash=_supports_flash(family, config),
        ),
    }
    with torch.device(device):
        if model_class is AutoModelForCausalLM:
            model = model_class.from_config(AutoConfig.for_model(**config), **arguments)
        else:
            described = model_class.config_class.from_dict(dict(config))
            model = model_class._from_config(described, **arguments)
    if quantization is not None:
        shape = family.shape(config)
        _check_quantizable(shape, quantization, device)
        for linear in shape.linears:
            parent, _, name = linear.name.rpartition(".")
            quantised = _quantised(model.get_submodule(linear.name), quantization, dtype)
            setattr(model.get_submodule(parent), name, quantised.to(device))
        model.is_quantized = True
    built: PreTrainedModel = model.eval()
    return _ready(built)


def tied_weights(config: Mapping[str, Any], family: Family) -> dict[str, str]:
    """Find the weights that are one with another: name -> the name of the one it is tied to."""
    if config.get("tie_word_embeddings") is False:
        return {}
    model = load_random(
        config, family, precision="fp32", quantization=None, device="meta", attention="auto"
    )
    tied: dict[str, str] = dict(model.all_tied_weights_keys)
    return tied


def register_auto_classes() -> None:
    """Do what `models.register` says."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    from raytune_glm.models.chatglm.configuration import ChatGLMConfig
    from raytune_glm.models.chatglm.modeling import ChatGLMForConditionalGeneration, ChatGLMModel
    from raytune_glm.models.chatglm.tokenization import ChatGLMTokenizer
    from raytune_glm.models.chatglm.tokenization4 import ChatGLM4Tokenizer
    from raytune_glm.models.chatglm_v1.configuration import ChatGLMV1Config
    from raytune_glm.models.chatglm_v1.modeling import (
        ChatGLMV1ForConditionalGeneration,
        ChatGLMV1Model,
    )
    from raytune_glm.models.chatglm_v1.tokenization import ChatGLMV1Tokenizer

    with _register_lock:
        # All generations have one `model_type` and one tokenizer name: configuration and tokenizer
        # of the later ones see by the checkpoint when the first is meant, and hand over to it.
        AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig, exist_ok=True)
        # Known by its name from here on; the next line of the same configuration is the default.
        AutoTokenizer.register(ChatGLMConfig, tokenizer_class=ChatGLM4Tokenizer, exist_ok=True)
        for config_class, model, generator, tokenizer in (
            (ChatGLMConfig, ChatGLMModel, ChatGLMForConditionalGeneration, ChatGLMTokenizer),
            (
                ChatGLMV1Config,
                ChatGLMV1Model,
                ChatGLMV1ForConditionalGeneration,
                ChatGLMV1Tokenizer,
            ),
        ):
            AutoModel.register(config_class, model, exist_ok=True)
            AutoModelForCausalLM.register(config_class, generator, exist_ok=True)
            AutoTokenizer.register(config_class, tokenizer_class=tokenizer, exist_ok=True)


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    """Do to a loaded model what training it needs."""
    module: Any
    for module in model.modules():
        # On some CPUs bitsandbytes packs nf4 weights anew at the first forward in evaluation, into
        # a form that has no backward: gradients after it would be wrong without an error.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    skip_unlabelled_rows(model)
    return model


def _supports_flash(family: Family, config: Mapping[str, Any]) -> bool:
    """Say whether the class that runs a model has FlashAttention, by transformers' own mark."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    model_class = family.model_class()
    if model_class is AutoModelForCausalLM:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[config["model_type"]]]
    return bool(model_class._supports_flash_attn)


def _hush_bitsandbytes() -> None:
    """Keep bitsandbytes from saying at every int8 product that it computes in fp16."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _check_quantizable(shape: ModelShape, quantization: Quantization, device: str) -> None:
    """Refuse what bitsandbytes would fail on at the first forward, with no word of the reason."""
    _hush_bitsandbytes()
    if quantization != "nf4" or device != "cpu":
        return
    for linear in shape.linears:
        if linear.in_features % _NF4_BLOCK:
            raise ModelError(
                f"nf4 on a CPU needs linears whose input is a multiple of {_NF4_BLOCK}, but "
                f"{linear.name} has in_features={linear.in_features}: use int8 or none."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars, and its table of tensors that we refuse, off stderr."""
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()


def _check_choices(precision: str, quantization: str | None) -> None:
    if precision not in _DTYPES:
        raise ModelError(
            f"`precision` must be one of {', '.join(_DTYPES)}, but got precision={precision!r}."
        )
    if quantization not in (None, "int8", "nf4"):
        raise ModelError(
            f"`quantization` must be int8, nf4 or nothing, but got quantization={quantization!r}."
        )


def _bitsandbytes(quantization: Quantization, compute_dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _quantised(
    linear: torch.nn.Linear, quantization: Quantization, compute_dtype: torch.dtype
) -> torch.nn.Module:
    """Make a bitsandbytes layer of a linear, as transformers does on loading."""
    from bitsandbytes.nn import modules as bnb

    has_bias = linear.bias is not None
    layer: torch.nn.Module
    if quantization == "int8":
        layer = bnb.Linear8bitLt(
            linear.in_features, linear.out_features, bias=has_bias, has_fp16_weights=False
        )
        layer.weight = bnb.Int8Params(
            linear.weight.data.half(), requires_grad=False, has_fp16_weights=False
        )
    else:
        layer = bnb.Linear4bit(  # type: ignore[no-untyped-call] # theirs
            linear.in_features,
            linear.out_features,
            bias=has_bias,
            compute_dtype=compute_dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        layer.weight = bnb.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
    layer.bias = linear.bias
    return layer


def _refuse_unfit(folder: Path, report: dict[str, Any]) -> None:
    problems = {
        "lacks": report["missing_keys"],
        "has too many": report["unexpected_keys"],
        "has in another shape": [entry[0] for entry in report["mismatched_keys"]],
    }
    found = [f"{verb} {_some(names)}" for verb, names in problems.items() if names]
    if found:
        raise ModelError(
            f"the weights in {folder} must be those that its config.json describes, but the "
            f"checkpoint {'; it '.join(found)}: use the two files of one and the same checkpoint."
        )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - _MAX_NAMES_SHOWN
    shown = ", ".join(ordered[:_MAX_NAMES_SHOWN])
    return f"{shown} and {rest} more" if rest > 0 else shown


def _blame_file(files: Sequence[Path], error: Exception) -> None:
    """Raise an error that names the weight file that cannot be read, if there is one."""
    for file in files:
        try:
            if file.suffix == ".safetensors":
                folders.read_header(file)
            else:
                torch.load(file, map_location="meta", weights_only=True)
        except Exception as reason:  # whatever the reader raises is why
            raise ModelError(
                f"the weight file {file} is damaged or no weights ({reason}). Copy it again."
            ) from error
