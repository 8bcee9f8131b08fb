"""Model folders from the Hugging Face hub: only configuration, tokenizer and safetensors files are downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmoer.errors import ModelSourceError

#: what an id on the hub looks like: owner/name
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_PATTERNS = ["*.json", "model*.safetensors", "*.model", "*.txt", "*.jinja"]
_SECONDS = 15  # to wait for the hub's first answer


def fetch_from_hub(model_id: str, revision: str | None = None) -> Path:
    """The local folder of a hub model; without the network, the one that an earlier download left."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    with _one_sentence(model_id, revision):
        try:
            found = HfApi().model_info(model_id, revision=revision, timeout=_SECONDS)
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # no connection; which class says so depends on the hub client's transport library
            return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
        require_safetensors(model_id, [file.rfilename for file in found.siblings or []])
        return Path(snapshot_download(model_id, revision=found.sha, allow_patterns=_PATTERNS))


def fetch_config(model_id: str, revision: str | None = None) -> Path:
    """The ``config.json`` of a hub model, and nothing else of it."""
    from huggingface_hub import hf_hub_download

    with _one_sentence(model_id, revision):
        return Path(hf_hub_download(model_id, "config.json", revision=revision, etag_timeout=_SECONDS))


def require_safetensors(source: str, names: list[str]) -> None:
    """Nothing; raises unless there are safetensors weights among the file names."""
    if any(name.endswith(".safetensors") for name in names):
        return
    other = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf")))
    found = f"only {other[0]}" if other else "no weights"
    raise ModelSourceError(
        f"{source} has {found}, but vmoer reads safetensors only; save it with `model.save_pretrained(folder)` first."
    )


@contextmanager
def _one_sentence(model_id: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        message = f"{model_id} asks for permission on the hub; accept its terms there and set HF_TOKEN."
        raise ModelSourceError(message) from error
    except errors.RepositoryNotFoundError as error:
        message = f"There is no folder {model_id} and no model of that id on the hub (if private, set HF_TOKEN)."
        raise ModelSourceError(message) from error
    except errors.RevisionNotFoundError as error:
        raise ModelSourceError(f"{model_id} has no revision {revision!r} on the hub.") from error
    except errors.HFValidationError as error:
        raise ModelSourceError(f"{model_id!r} is neither a folder nor a valid hub id (owner/name).") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise ModelSourceError(f"The hub refused {model_id} with status {status}; try again later.") from error
    except OSError as error:
        raise ModelSourceError(
            f"There is no folder {model_id}, the hub cannot be reached, and no earlier download of it is kept here."
        ) from error
