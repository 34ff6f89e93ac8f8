"""Lazy configs: Python files that describe objects, overrides, safe YAML, ``instantiate``. Needs omegaconf alone."""

from rec.config.batch import solve_batch_size
from rec.config.call import LazyCall, check, instantiate, locate
from rec.config.errors import ConfigError
from rec.config.foreign import without_interpolations
from rec.config.lazy import LazyConfig, get_config, try_get_key
from rec.config.overrides import apply_overrides, parse_config_arguments, shell_override
from rec.config.printing import diff
from rec.config.yaml_io import safe_load_yaml, to_native

__all__ = ["ConfigError", "LazyCall", "LazyConfig", "apply_overrides", "check", "diff", "get_config", "instantiate"]
__all__ += ["locate", "parse_config_arguments", "safe_load_yaml", "solve_batch_size", "to_native", "try_get_key"]
__all__ += ["shell_override", "without_interpolations"]
