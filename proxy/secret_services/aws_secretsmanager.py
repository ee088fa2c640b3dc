"""`aws-secretsmanager:NAME` or `NAME#json-key`: AWS Secrets Manager, by botocore (the extra `bearerproxy[aws]`).

Region, credentials and endpoint are looked up as the AWS command does it: variables, ~/.aws, container and instance
roles. NAME may be an ARN, which names its region itself.
"""

import importlib.util
import json
import re
from typing import Any

from proxy.errors import SecretError
from proxy.secret_services.service import CONNECT_SECONDS, READ_SECONDS, for_people, member, members

_ARN = re.compile(r"arn:[a-z-]+:secretsmanager:([a-z0-9-]+):\d+:secret:.+")


class AwsSecret:
    """A secret of AWS Secrets Manager, or one key of the JSON object that it holds."""

    def __init__(self, text: str) -> None:
        name, has_key, key = text.partition("#")
        # CreateSecret allows "ASCII letters, numbers, and the following characters: /_+=.@-" in names.
        if not re.fullmatch(r"[\w/+=.@-]+", name, re.ASCII) and not _ARN.fullmatch(name):
            raise SecretError(
                "aws-secretsmanager: wants a name or an ARN, such as aws-secretsmanager:provena/api-token"
            )
        if has_key and not key:
            raise SecretError(f"aws-secretsmanager:{name}# wants the name of a JSON key behind the #")
        self._name = name
        self._key = key
        self._whose = f"the AWS secret {name}"

    def check(self) -> None:
        if importlib.util.find_spec("botocore") is None:
            raise SecretError(
                "aws-secretsmanager: wants a library that is not installed; install it: pip install 'bearerproxy[aws]'"
            )

    def read(self) -> str:
        content = self._content(self._client())
        if content is None:
            raise SecretError(f"AWS Secrets Manager has no secret {self._name} in this region and account")
        return member(content, self._key, self._whose) if self._key else content

    def prepare(self) -> None:
        _ = self._replaced(self._content(self._client()), "")

    def write(self, value: str) -> None:
        client = self._client()
        content = self._content(client)
        replaced = self._replaced(content, value)
        if content is None:
            self._call(client.create_secret, Name=self._name, SecretString=replaced)
        else:
            self._call(client.put_secret_value, SecretId=self._name, SecretString=replaced)

    def _replaced(self, content: str | None, value: str) -> str:
        if self._key:
            return json.dumps(({} if content is None else members(content, self._whose)) | {self._key: value})
        if content is not None and content.lstrip().startswith("{"):
            raise SecretError(
                f"{self._whose} holds several values; name a key: aws-secretsmanager:{self._name}#api-token"
            )
        return value

    def _content(self, client: Any) -> str | None:  # Any: botocore makes its clients at run time
        """Return what the secret holds now; None if there is no such secret."""
        answer = self._call(client.get_secret_value, absent="ResourceNotFoundException", SecretId=self._name)
        if answer is None:
            return None
        if "SecretString" not in answer:
            raise SecretError(f"{self._whose} is binary, not text")
        return str(answer["SecretString"])

    def _client(self) -> Any:  # Any: the same
        self.check()
        import botocore.config  # type: ignore[import-untyped] # it has no types
        import botocore.session  # type: ignore[import-untyped] # it has no types

        session = botocore.session.get_session()
        # As the default of the session, so that the calls that fetch credentials keep to it too. No proxies from the
        # environment: outbound proxies are a matter of the configuration.
        session.set_default_client_config(
            botocore.config.Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 2},
                proxies={},
            )
        )
        arn = _ARN.fullmatch(self._name)
        return self._call(session.create_client, "secretsmanager", region_name=arn.group(1) if arn else None)

    def _call(self, call: Any, *arguments: Any, absent: str = "", **parameters: Any) -> Any:  # Any: the same
        """Return what `call` returns, None where AWS answers with the error `absent`; raises SecretError."""
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped] # it has no types

        try:
            return call(*arguments, **parameters)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if absent and code == absent:
                return None
            told = error.response.get("Error", {}).get("Message", "")
            raise SecretError(f"AWS refuses {self._whose}: {for_people(f'{code}: {told}')}") from None
        except (BotoCoreError, ValueError) as error:  # the second: an endpoint that is no URL
            raise SecretError(
                f"AWS Secrets Manager cannot be asked for {self._name}: {for_people(str(error))}"
            ) from None
