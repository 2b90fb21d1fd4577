"""ECR that hands out the local registry: what is pushed there is in ECR, and what ECR refuses is refused there.

moto keeps ECR's images as records of their own. A small front before the registry makes them one: repositories must
exist, tags may be immutable, and each manifest that is pushed, and no other, is an image of moto's. What PutImage puts
is pushed to the registry in turn.
"""

import fnmatch
import hashlib
import http.client
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ecr import models, responses
from moto.ecr.exceptions import ImageAlreadyExistsException, InvalidParameterException
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from werkzeug.wrappers import Request, Response

from deploy_runner.local_aws.machine import Machine

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags)/(?P<reference>[^/]+(/[^/]*)?)")
_MIRROR = "public.ecr.aws/"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "server", "date"}


def install(machine: Machine) -> None:
    """Point ECR at the registry, and the registry's clients at ECR's rules."""
    _patch_uris(machine)
    _patch_put_image(machine)
    front = RegistryFront(ecr_backends[machine.account_id][machine.region], machine.registry_backend_port)
    machine.serve(front, machine.registry_port, "ECR's registry")


def _patch_uris(machine: Machine) -> None:
    """A repository's URI is that of the registry that takes its images, and so is the token's endpoint.

    In AWS: `ACCOUNT.dkr.ecr.REGION.amazonaws.com`, over TLS; a token lives 12 hours (API_GetAuthorizationToken).
    """
    original = models.Repository.__init__

    def init(self: Repository, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.uri = f"{machine.registry}/{self.name}"

    token = responses.ECRResponse.get_authorization_token

    def get_authorization_token(self: Any) -> Any:
        answer = token(self)
        for data in answer.result["authorizationData"]:
            data["proxyEndpoint"] = f"http://{machine.registry}"
            data["expiresAt"] = datetime.now(UTC) + timedelta(hours=12)
        return answer

    models.Repository.__init__ = init
    responses.ECRResponse.get_authorization_token = get_authorization_token


def _patch_put_image(machine: Machine) -> None:
    """PutImage puts a manifest where a pull finds it, and only one whose parts are there.

    moto only records it (github.com/getmoto/moto, ecr/models.py, put_image). Source of the errors: ECR API Reference,
    "PutImage"; of their wording, which the registry's API shares: github.com/oras-project/oras-py/issues/54.
    """

    def put_image(
        self: ECRBackend,
        repository_name: str,
        image_manifest: str,
        image_tag: str | None,
        image_manifest_mediatype: str | None = None,
        digest: str | None = None,
    ) -> Image:
        repository = self._get_repository(repository_name)
        manifest, media_type = _parsed(image_manifest, image_manifest_mediatype)
        computed = _digest(image_manifest.encode())
        if digest not in (None, computed):
            raise ImageDigestDoesNotMatchException(
                f"The image with digest '{digest}' in repository '{repository_name}' and registry ID "
                f"'{repository.registry_id}' does not match the image digest that Amazon ECR has calculated."
            )
        same = next((i for i in repository.images if i.get_image_digest() == computed), None)
        if same and (image_tag is None or image_tag in same.image_tags):
            raise ImageAlreadyExistsException(repository_name, repository.registry_id, computed, str(image_tag))
        taken = any(image_tag in image.image_tags for image in repository.images)
        if image_tag and taken and _immutable(repository, image_tag):
            raise ImageTagAlreadyExistsException(_cannot_be_overwritten(repository, image_tag))
        known = {image.get_image_digest() for image in repository.images}
        if missing := [each["digest"] for each in manifest.get("manifests", []) if each["digest"] not in known]:
            raise ReferencedImagesNotFoundException(_required("Images", missing, repository))
        connection = http.client.HTTPConnection("127.0.0.1", machine.registry_backend_port, timeout=120)
        path = f"/v2/{repository_name}/manifests/{image_tag or computed}"
        try:
            connection.request("PUT", path, image_manifest.encode(), {"Content-Type": media_type})
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status != 201:
            errors = json.loads(said)["errors"]
            if missing := [str(each["detail"]) for each in errors if each["code"] == "MANIFEST_BLOB_UNKNOWN"]:
                raise LayersNotFoundException(_required("Layers", missing, repository))
            raise InvalidParameterException(f"Invalid parameter at 'ImageManifest': {errors[0]['message']}")
        return _remember(repository, image_tag, image_manifest, media_type, computed)

    ECRBackend.put_image = put_image


def _parsed(manifest: str, media_type: str | None) -> tuple[dict[str, Any], str]:
    try:
        parsed: dict[str, Any] = json.loads(manifest)
        media_type = media_type or parsed["mediaType"]
    except ValueError:
        wrong = "'Invalid JSON syntax'"
        raise InvalidParameterException(
            f"Invalid parameter at 'ImageManifest' failed to satisfy constraint: {wrong}"
        ) from None
    except KeyError:
        raise InvalidParameterException("image manifest mediatype not provided in manifest or parameter") from None
    return parsed, str(media_type)


def _required(what: str, digests: list[str], repository: Repository) -> str:
    return (
        f"{what} with digests '[{', '.join(digests)}]' required for pushing image into repository with name "
        f"'{repository.name}' in the registry with id '{repository.registry_id}' do not exist"
    )


class ImageDigestDoesNotMatchException(ServiceException):  # type: ignore[misc]  # moto is not typed for us
    """The manifest is another than that of the digest that came with it."""

    code = "ImageDigestDoesNotMatchException"


class ImageTagAlreadyExistsException(ServiceException):  # type: ignore[misc]
    """The tag is another image's and may not move."""

    code = "ImageTagAlreadyExistsException"


class LayersNotFoundException(ServiceException):  # type: ignore[misc]
    """A manifest names layers that are not in the repository."""

    code = "LayersNotFoundException"


class ReferencedImagesNotFoundException(ServiceException):  # type: ignore[misc]
    """An index names images that are not in the repository."""

    code = "ReferencedImagesNotFoundException"


class RegistryFront:
    """A WSGI application before the registry that holds pushes and pulls to ECR's rules."""

    def __init__(self, ecr: ECRBackend, port: int) -> None:
        self.ecr, self.port = ecr, port

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request of a registry client."""
        request = Request(environ)
        response: Response = self._refusal(request) or self._forward(request)
        answer: Iterable[bytes] = response(environ, start_response)
        return answer

    def _refusal(self, request: Request) -> Response | None:
        """Return ECR's answer where it is another than the registry's.

        Source of the wording: ECR User Guide, "Troubleshooting errors with Docker commands when using Amazon ECR".
        """
        found = _PATH.fullmatch(request.path)
        if not found:
            return None
        name, kind, reference = found["name"], found["kind"], found["reference"]
        reading = request.method in ("GET", "HEAD")
        if name.startswith(_MIRROR):
            return None if reading else _error(403, "DENIED", "the mirror of public images takes no pushes")
        repository = self.ecr.repositories.get(name)
        if repository is None:
            message = (
                f"The repository with name '{name}' does not exist in the registry with id '{self.ecr.account_id}'"
            )
            return _error(404, "NAME_UNKNOWN", message)
        if kind != "manifests":
            return None
        known = [i for i in repository.images if reference in i.image_tags or reference == i.get_image_digest()]
        if reading and not known:
            return _error(404, "MANIFEST_UNKNOWN", "Requested image not found")
        if request.method == "PUT" and known and _immutable(repository, reference):
            digest = _digest(request.get_data())
            if all(digest != image.get_image_digest() for image in known):
                return _error(400, "TAG_INVALID", _cannot_be_overwritten(repository, reference))
        return None

    def _forward(self, request: Request) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        pushing = request.method == "PUT" and (found := _PATH.fullmatch(request.path)) and found["kind"] == "manifests"
        body: Any = request.get_data() if pushing else request.stream
        query = f"?{request.query_string.decode()}" if request.query_string else ""
        path = urllib.parse.quote(request.path, safe="/:@+~") + query
        has_body = request.method in ("PUT", "PATCH", "POST")
        chunked = has_body and "Content-Length" not in request.headers and not pushing
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        connection.request(request.method, path, body if has_body else None, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        if pushing and answer.status == 201 and found:
            digest = answer.getheader("Docker-Content-Digest") or ""
            tag = None if found["reference"].startswith("sha256:") else found["reference"]
            repository = self.ecr.repositories[found["name"]]
            _remember(repository, tag, body.decode(), request.content_type or "", digest)
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP]
        return Response(_chunks(connection, answer), answer.status, kept, direct_passthrough=True)


def _remember(repository: Repository, tag: str | None, manifest: str, media_type: str, digest: str) -> Image:
    """Make the manifest an image of moto's; a tag moves from the image that had it."""
    image = next((i for i in repository.images if i.get_image_digest() == digest), None)
    if image is None:
        image = Image(repository.account_id, tag, manifest, repository.name, media_type, digest)
        repository.images.append(image)
    for other in repository.images:
        if tag and other is not image and tag in other.image_tags:
            other.remove_tag(tag)
            if not other.image_tags:
                other.image_tag = None
    if tag:
        image.update_tag(tag)
    return image


def _immutable(repository: Repository, tag: str) -> bool:
    """Tell whether a tag may not move: ECR API Reference, "ImageTagMutabilityExclusionFilter" (`*` is its wildcard)."""
    filters = repository.image_tag_mutability_exclusion_filters or []
    excluded = any(fnmatch.fnmatchcase(tag, each["filter"]) for each in filters)
    return bool(repository.image_tag_mutability.startswith("IMMUTABLE") != excluded)


def _cannot_be_overwritten(repository: Repository, tag: str) -> str:
    return (
        f"The image tag '{tag}' already exists in the '{repository.name}' repository and cannot be overwritten "
        "because the repository is immutable."
    )


def _digest(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def _chunks(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := answer.read(1 << 20):
            yield chunk
    finally:
        connection.close()


def _error(status: int, code: str, message: str) -> Response:
    """Return an error as the registry API words it: distribution specification, "Error Codes"."""
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    return Response(body, status, content_type="application/json")
