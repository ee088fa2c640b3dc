"""Services that keep secrets, one module for each: read at each renewal, written by `login --to`."""

from collections.abc import Mapping

from proxy.secret_services.service import SecretService

__all__ = ["KINDS", "SecretService", "service_of"]

KINDS = ("aws-secretsmanager", "vault")


def service_of(kind: str, text: str, environ: Mapping[str, str]) -> SecretService:
    """Return the place that `kind:text` names; calls nobody. Raises SecretError if it can never be one.

    `environ` says where the service is and who we are there (VAULT_ADDR and so on).
    """
    if kind == "vault":
        from proxy.secret_services.vault import VaultSecret

        return VaultSecret(text, environ)
    from proxy.secret_services.aws_secretsmanager import AwsSecret

    return AwsSecret(text)
