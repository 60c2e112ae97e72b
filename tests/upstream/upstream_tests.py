"""The mixins of transformers' own tests, which `fetch.py` has put into build/upstream.

The source distribution holds the files directly below transformers' tests/ only. What these import from folders
beside them is replaced: by nothing for mixins, which are then not tested, and by the like for helpers.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import fetch
from transformers.models.auto import modeling_auto


def _stand_in(name: str, **attributes: Any) -> None:
    """Makes `import name` succeed for a module that the source distribution lacks."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules.setdefault(name, module)


def _mixin(module: str, name: str) -> type:
    return getattr(importlib.import_module(f"{fetch.PACKAGE}.{module}"), name)


if not (fetch.FOLDER / "version").is_file():
    raise FileNotFoundError("transformers' tests are not here: `make test-upstream` fetches and runs them.")
sys.path.insert(0, str(fetch.FOLDER))

_stand_in(f"{fetch.PACKAGE}.generation")
_stand_in(f"{fetch.PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
_stand_in(f"{fetch.PACKAGE}.exporters")
_stand_in(f"{fetch.PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
_stand_in(f"{fetch.PACKAGE}.utils")
_stand_in(f"{fetch.PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
# Names of files that transformers' CI keeps beside the tests; those of the audio are not opened by tests of ours.
_stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)

ConfigTester = _mixin("test_configuration_common", "ConfigTester")
ModelTesterMixin = _mixin("test_modeling_common", "ModelTesterMixin")
ProcessorTesterMixin = _mixin("test_processing_common", "ProcessorTesterMixin")
TrainingTesterMixin = _mixin("test_training_mixin", "TrainingTesterMixin")

# The tests give labels to the classes of this table, and check the loss of those.
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["ttt"] = "TtTForConditionalGeneration"
