"""Ray itself: where it runs, how jobs reach it.

Importing this package sets what every Ray process inherits. It must happen before `import ray`, which reads some of
these variables once.
"""

import os

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # ray < 2.61 leaves clusters made by `ray start` open unless told so
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Serve kills its proxy when it does not answer three times within this time, and on a busy machine its imports take
    # longer than the 5 s that Serve gives it. Its controller reads it from the environment that Ray was started with.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
