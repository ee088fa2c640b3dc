"""Secret references: `env:NAME`, `file:/path`, `keyring:service/name`, `command:…`, or the literal itself."""
