"""Lazy configs: Python files that describe objects, changed by overrides, saved as safe YAML, built by ``instantiate``.

Knows nothing of torch and needs omegaconf alone.
"""

from rec.config.batch import solve_batch_size
from rec.config.call import LazyCall, check, instantiate, locate
from rec.config.errors import ConfigError
from rec.config.lazy import LazyConfig, get_config, try_get_key
from rec.config.overrides import apply_overrides, parse_config_arguments
from rec.config.printing import diff, list_keys
from rec.config.yaml_io import safe_load_yaml, to_native

__all__ = ["ConfigError", "LazyCall", "LazyConfig", "apply_overrides", "check", "diff", "get_config"]
__all__ += ["instantiate", "list_keys", "locate", "parse_config_arguments", "safe_load_yaml", "solve_batch_size"]
__all__ += ["to_native", "try_get_key"]
