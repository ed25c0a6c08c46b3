from ola_jax.errors import require

require("serve", "fastapi", "prometheus_client", "uvicorn")
