"""`python -m prism_operator`: the operator."""

import asyncio
import os
import sys

from prism_api.errors import PrismError
from prism_operator.cluster.connection import login
from prism_operator.cluster.logs import setup_logs
from prism_operator.cluster.settings import read_settings
from prism_operator.operate import operate


def main() -> None:
    """Run until stopped; errors of the platform as text and exit code."""
    try:
        settings = read_settings(sys.argv[1:], os.environ)
        setup_logs(settings.log_format, settings.log_level)
        asyncio.run(operate(settings, login))
    except PrismError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
