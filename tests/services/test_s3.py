"""A study whose checkpoints and Ray files lie in S3, on a real S3 server on loopback."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.services.studies import files_with, run, write_study

pytestmark = pytest.mark.services
SECRET = "secret-key-of-the-test"


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """The variables with which a user reaches the bucket `studies`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client(variables).create_bucket(Bucket="studies")
    yield variables
    server.stop()


def client(variables: dict[str, str]) -> "boto3.client":
    return boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_DEFAULT_REGION"],
    )


def keys(variables: dict[str, str], prefix: str) -> list[str]:
    pages = client(variables).get_paginator("list_objects_v2").paginate(Bucket="studies", Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def test_checkpoints_and_rays_files_lie_in_s3_and_the_study_can_be_analysed_from_there(
    bucket: dict[str, str], tmp_path: Path
) -> None:
    write_study(tmp_path, trials=2)
    places = ("--artifacts", "s3://studies/artifacts", "--ray-storage", "s3://studies/ray")
    ran = run(tmp_path, *places, variables=bucket)
    assert ran.code == 0, ran.out + ran.err
    artifacts = keys(bucket, "artifacts/small/")
    assert sum(key.endswith("checkpoint/weights.safetensors") for key in artifacts) == 2
    assert any(key.endswith("report/report.html") for key in artifacts)
    assert not (tmp_path / "runs" / "mlflow-artifacts").exists()
    # Ray's workers handed the files over there; what is in the record is no longer needed.
    left = keys(bucket, "ray/small/")
    assert left, "Ray has written to the bucket"
    assert not any(key.endswith("weights.safetensors") for key in left), left
    assert [path.name for path in (tmp_path / "runs" / "ray" / "small").iterdir()] == ["ray.log"]

    # From the record, with another folder for the pages; and other estimates from the checkpoints in S3.
    analysed = run(tmp_path, "small", "--out", "pages", variables=bucket, module="analysis")
    assert analysed.code == 0, analysed.err
    assert (tmp_path / "pages" / "report.html").exists()
    words = ("rlct", "estimate", "small", "--runner", "local", "--draws", "8")
    estimated = run(tmp_path, *words, variables=bucket, module="study")
    assert estimated.code == 0, estimated.out + estimated.err

    # A study's files do not move.
    moved = run(tmp_path, "--artifacts", "s3://studies/other", "--trials", "3", "--runner", "local", variables=bucket)
    assert moved.code == 2
    assert "lie at s3://studies/artifacts/small since it began" in moved.err
    assert files_with(SECRET, tmp_path) == []
    for key in keys(bucket, ""):
        body = client(bucket).get_object(Bucket="studies", Key=key)["Body"].read()
        assert SECRET.encode() not in body, key


@pytest.mark.parametrize("option", ["--artifacts", "--ray-storage"])
@pytest.mark.parametrize(
    ("changes", "uri", "message"),
    [
        ({}, "s3://no-such-bucket/x", "404"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://studies/x", "the connection is refused"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_one_clear_error_before_anything_is_created(
    option: str, changes: dict[str, str], uri: str, message: str, bucket: dict[str, str], tmp_path: Path
) -> None:
    write_study(tmp_path, trials=2)
    refused = run(tmp_path, option, uri, "--plan", variables=bucket | changes)
    assert refused.code == 2
    assert refused.err.startswith(f"error: {option} {uri} cannot be used: ")
    assert message in refused.err
    assert not (tmp_path / "runs").exists()
