"""The gate before AWS's services: a request that is signed with a role's credentials passes if its policies allow it.

It stands before moto, so that no handler of moto or ours can be reached around it.
"""

import io
import json
import logging
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from botocore.exceptions import UnknownServiceError
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request, determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from moto.iam.models import get_account_id_from
from werkzeug.wrappers import Response

from deploy_runner.local_aws.iam.accounts import access_role
from deploy_runner.local_aws.iam.authority import (
    AccessDenied,
    InvalidIdentityToken,
    Session,
    TokenInvalid,
    check,
    check_assume,
    check_assume_as_person,
    session_of,
    trusts_web_identity,
)
from deploy_runner.local_aws.iam.requests import Call, needs
from deploy_runner.local_aws.machine import Machine

log = logging.getLogger(__name__)
type Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# The names of services in signatures that botocore's models have under another name.
MODELS = {"states": "stepfunctions", "monitoring": "cloudwatch", "elasticloadbalancing": "elbv2"}
# The code and status of a refusal where they are not the protocol's. AccessDeniedException is in the "Common Errors"
# of the services that speak JSON, with status 400; AuthorizationError and status 403 in API_Publish of SNS.
_CODES = {
    "lambda": ("AccessDeniedException", 403),
    "sns": ("AuthorizationError", 403),
    "sqs": ("AccessDenied", 403),
    "ec2": ("UnauthorizedOperation", 403),
}
_BY_PROTOCOL = {"json": ("AccessDeniedException", 400), "rest-json": ("AccessDeniedException", 403)}
_OTHERWISE = ("AccessDenied", 403)


# Exactly as moto reads it, or a request could be signed for one service to us and for another to moto.
_SIGNED = re.compile(r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/\d+/([^/,\s]+)/([^/,\s]+)/aws4_request(,|\s|$)")


class Gate:
    """A WSGI application before AWS's."""

    def __init__(self, aws: Wsgi, machine: Machine) -> None:
        self._aws, self._machine = aws, machine

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        environ.pop("HTTP_X_MOTO_ACCOUNT_ID", None)  # by it moto would answer for another account than the key's
        access_key, token, region, service = signature(environ)
        try:
            if not access_key:
                refused = _unsigned(environ)
                if refused is None and self._machine.from_container(environ):
                    # Workflows run on the host. Since nobody signs tokens here, a container could make up its own.
                    message = "Not authorized to perform sts:AssumeRoleWithWebIdentity"
                    refused = error_answer(whole_request(environ), "sts", message)
            elif (session := session_of(access_key, token)) is None and self._machine.from_container(environ):
                raise TokenInvalid(expired=False)  # in a container nobody is a person: it has its role, or nothing
            elif session or service == "sts":
                account = session.account if session else get_account_id_from(access_key)
                refused = self._refused(environ, session, account, service, region)
            else:
                refused = None
        except TokenInvalid as error:
            refused = _token_refused(environ, service, error)
        return self._aws(environ, start_response) if refused is None else refused(environ, start_response)

    def _refused(
        self, environ: dict[str, Any], session: Session | None, account: str, service: str, region: str
    ) -> Response | None:
        """Return why a session may not do what it asks for. A person may do all but become a role that bars them.

        Nobody's rights reach past a role's trust policy: "How to use trust policies with IAM roles".
        """
        request = whole_request(environ)
        operation = operation_name(request)
        try:
            call = call_of(request, service, account, region)
            operation = call.operation
            self._check_plain(request, service)
            wanted = needs(call)
            if session is None:
                for asked in wanted or [] if call.operation == "AssumeRole" else []:
                    check_assume_as_person(account, asked)
                return None
            context = {
                "aws:SourceIp": environ.get("REMOTE_ADDR"), "aws:UserAgent": environ.get("HTTP_USER_AGENT"),
                "aws:Referer": environ.get("HTTP_REFERER"),
            }  # fmt: skip
            if wanted is None and session.role_arn in map(access_role, self._machine.members) and not session.policy:
                return None  # what the table does not name is nothing that somebody denied an administrator
            if wanted is None:
                reason = f"local AWS has no row for {service}:{operation} in deploy_runner.local_aws.iam.requests"
                raise AccessDenied(f"User: {session.arn} is not authorized to perform: {service}:{operation}: {reason}")
            if call.operation == "AssumeRole":
                for asked in wanted:
                    check_assume(session, asked.resource, asked.context, asked.action)
            else:
                check(session, [replace(asked, context={**context, **asked.context}) for asked in wanted])
        except AccessDenied as error:
            log.info("%s", error)
            return error_answer(request, service, str(error))
        except Exception as error:  # what cannot be read is not let through
            log.exception("%s of %s could not be checked", operation, service)
            message = f"User: {session.arn if session else 'you'} is not authorized to perform: {service}:{operation}: "
            return error_answer(request, service, f"{message}local AWS could not check the request ({error!r})")
        return None

    def _check_plain(self, request: Request, service: str) -> None:
        """Raise AccessDenied for what moto could take for another request than we do. No client of AWS makes such.

        moto goes by some paths before the signature, by the host's name for a bucket or a region, and by an Action
        before the header or the path; of a form and a query it takes the form, and we the query.
        """
        if protocol_of(request, service) in ("query", "ec2"):
            twice = bool(request.form and request.args)
        else:
            twice = "Action" in request.values
        elsewhere = request.path.startswith(("/moto-api", "/latest/"))
        presigned = "HTTP_AUTHORIZATION" not in request.environ and service != "s3"  # moto takes it for S3's
        host = request.environ.get("HTTP_HOST", "").partition(":")[0]
        ours = re.fullmatch(r"localhost|[\d.]+", host) or host == self._machine.engine.host_from_container
        if twice or elsewhere or presigned or not ours:
            raise AccessDenied(f"local AWS takes no request of {service} in which it is not plain what is asked for")


def signature(environ: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return access key, session token, region and service of a signed request; of an unsigned one, nothing."""
    header = environ.get("HTTP_AUTHORIZATION", "")
    found = _SIGNED.match(header)
    if found:
        return found[1], environ.get("HTTP_X_AMZ_SECURITY_TOKEN", ""), found[2], found[3]
    query = {key.lower(): values[0] for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    scope = query.get("x-amz-credential", "").split("/")
    if len(scope) == 5 and not header:
        return scope[0], query.get("x-amz-security-token", ""), scope[2], scope[3]
    return "", "", "", ""


def whole_request(environ: dict[str, Any]) -> Request:
    """Return the request with its body read, and leave the body to be read once more."""
    request = Request(environ)
    body = request.get_data(cache=True, parse_form_data=False)
    environ["wsgi.input"] = io.BytesIO(body)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["CONTENT_LENGTH"] = str(len(body))
    copy = Request({**environ, "wsgi.input": io.BytesIO(body)})
    copy.get_data(cache=True, parse_form_data=True)
    return copy


def operation_name(request: Request) -> str:
    """Return the operation's name as far as the request itself tells it."""
    target = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
    return str(target or request.values.get("Action") or request.method)


def call_of(request: Request, service: str, account: str, region: str) -> Call:
    """Return the operation and its parameters, by botocore's model. Raises whatever the request makes moto raise."""
    model: Any = get_service_model(MODELS.get(service, service))
    operation, labels = get_service_router(model.service_name).match(request)
    protocol = determine_request_protocol(model, request.content_type)
    parser = PROTOCOL_PARSERS[protocol](operation)
    parameters = parser.parse(
        {
            "method": request.method, "values": request.values, "headers": request.headers,
            "body": request.get_data(), "url_path": request.path, "url_params": labels,
        }
    )  # fmt: skip
    return Call(service, operation.name, parameters, account, region)


def error_answer(request: Request, service: str, message: str, code: str = "", status: int = 0) -> Response:
    """Return a refusal in the shape of the service's protocol.

    moto's own serializers name errors after the module that raises them, and ours is none of moto's services.
    """
    protocol = protocol_of(request, service)
    own_code, own_status = _CODES.get(service, _BY_PROTOCOL.get(protocol, _OTHERWISE))
    code, status = code or own_code, status or own_status
    if "json" in protocol:
        body = json.dumps({"__type": code, "message": message, "Message": message})
        headers = {"x-amzn-ErrorType": code}
        if service in ("sqs", "monitoring"):  # whose models have the trait awsQueryCompatible, of all in botocore
            headers["x-amzn-query-error"] = f"{code};Sender"
        return Response(body, status, headers, content_type=request.content_type or "application/json")
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    shapes = {"rest-xml": error, "ec2": f"<Response><Errors>{error}</Errors></Response>"}
    return Response(shapes.get(protocol, f"<ErrorResponse>{error}</ErrorResponse>"), status, content_type="text/xml")


def protocol_of(request: Request, service: str) -> str:
    """Return the protocol that the request speaks, as botocore calls it."""
    try:
        return str(determine_request_protocol(get_service_model(MODELS.get(service, service)), request.content_type))
    except (UnknownServiceError, NotImplementedError):
        return "json" if "json" in (request.content_type or "") else "query"


def _token_refused(environ: dict[str, Any], service: str, error: TokenInvalid) -> Response:
    request = whole_request(environ)
    json_spoken = "json" in (request.content_type or "")
    if error.expired:
        code = "ExpiredTokenException" if json_spoken else "ExpiredToken"
    else:
        code = "UnrecognizedClientException" if json_spoken else "InvalidClientTokenId"
    return error_answer(request, service, str(error), code)


def _unsigned(environ: dict[str, Any]) -> Response | None:
    """Refuse a request that nobody signed, but for AssumeRoleWithWebIdentity, which nobody signs.

    MissingAuthenticationToken and its status are in the "Common Errors" of the services; S3 calls it AccessDenied where
    an object is not public, and here none is.
    """
    request = whole_request(environ)
    message = "Request is missing Authentication Token"
    if "json" in (request.content_type or ""):
        return error_answer(request, "ecs", message, "MissingAuthenticationTokenException", 400)
    if "Action" not in request.values:
        return error_answer(request, "s3", "Access Denied")
    # In a form alone, as clients send it: from a query, or by a path, moto would do something else.
    plain = request.path == "/" and not request.args and "HTTP_AUTHORIZATION" not in environ
    if request.values["Action"] != "AssumeRoleWithWebIdentity" or not plain:
        return error_answer(request, "sts", message, "MissingAuthenticationToken", 403)
    return _web_identity(request)


def _web_identity(request: Request) -> Response | None:
    """Hold AssumeRoleWithWebIdentity to the role's trust policy and the token's claims.

    Whether the provider signed the token is not looked at: there is none on this machine.
    """
    role = str(request.values.get("RoleArn"))
    claims = _claims(str(request.values.get("WebIdentityToken")))
    issuer = urlsplit(str(claims.get("iss", "")))
    host = f"{issuer.netloc}{issuer.path}".rstrip("/")
    keys: dict[str, Any] = {f"{host}:{name}": str(value) for name, value in claims.items()}
    keys |= {"sts:RoleSessionName": request.values.get("RoleSessionName"), "aws:FederatedProvider": host}
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires < time.time():
        message = "The web identity token that was passed is expired or is not valid."  # API_AssumeRoleWithWebIdentity
        return error_answer(request, "sts", message, "ExpiredTokenException", 400)
    try:
        if trusts_web_identity(role, host, str(claims.get("aud")), keys):
            return None
    except InvalidIdentityToken as error:
        return error_answer(request, "sts", str(error), "InvalidIdentityToken", 400)
    message = "Not authorized to perform sts:AssumeRoleWithWebIdentity"
    return error_answer(request, "sts", message)


def _claims(token: str) -> dict[str, Any]:
    try:
        payload = token.split(".")[1]
        return dict(json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
    except (IndexError, ValueError, TypeError):
        return {}
