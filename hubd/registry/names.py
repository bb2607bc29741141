"""Names of edges and tenants."""

from typing import Final

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
NAME_RULE: Final = "letters, digits, . _ -, at most 63, beginning with a letter or digit"
# Whose everything is as long as nobody names another tenant.
DEFAULT_TENANT: Final = "default"
