"""The pods of an indexed Job are a cluster if the manifest sets their number and Service."""

import pytest

from tfbig.clusters.find import Cluster, find_cluster
from tfbig.errors import UserError

POD = {
    "JOB_COMPLETION_INDEX": "1",
    "HOSTNAME": "digits-1",
    "TFBIG_WORKERS": "3",
    "TFBIG_SERVICE": "digits-svc",
}


def pod(**changes: str | None) -> dict[str, str]:
    return {name: value for name, value in (POD | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("environ", "addresses"),
    [
        (pod(), [f"digits-{i}.digits-svc:2222" for i in range(3)]),
        (pod(TFBIG_PORT="8470"), [f"digits-{i}.digits-svc:8470" for i in range(3)]),
        (
            pod(TFBIG_JOB_NAME="other", HOSTNAME=None),
            [f"other-{i}.digits-svc:2222" for i in range(3)],
        ),
        (
            pod(HOSTNAME="digits-1.digits-svc.default.svc.cluster.local", TFBIG_WORKERS="2"),
            [f"digits-{i}.digits-svc:2222" for i in range(2)],
        ),
        (
            pod(HOSTNAME="my-job-1-1", TFBIG_WORKERS="2"),
            ["my-job-1-0.digits-svc:2222", "my-job-1-1.digits-svc:2222"],
        ),
    ],
)
def test_pods_are_workers(environ, addresses):
    found = find_cluster(environ)
    assert found == Cluster("Kubernetes", {"worker": tuple(addresses)}, "worker", 1)
    assert found.explain() == (
        f"multi_worker: Kubernetes lists {len(addresses)} workers; this is worker 1"
    )


@pytest.mark.parametrize(
    "environ",
    [
        pod(TFBIG_WORKERS=None),
        pod(TFBIG_WORKERS=None, TFBIG_SERVICE=None),
        pod(TFBIG_WORKERS="1", JOB_COMPLETION_INDEX="0"),
    ],
)
def test_independent_trainings_are_not_a_cluster(environ):
    assert find_cluster(environ) is None


BAD = {
    "not an indexed Job": (
        pod(JOB_COMPLETION_INDEX=None),
        "TFBIG_WORKERS=3, but JOB_COMPLETION_INDEX is not set, which Kubernetes sets in an "
        "indexed Job; write completionMode: Indexed in the Job's spec.",
    ),
    "no service": (
        pod(TFBIG_SERVICE=None),
        "TFBIG_WORKERS=3, but TFBIG_SERVICE is not set; set it to the name of the headless Service "
        "(clusterIP: None) that is the pods' subdomain.",
    ),
    "more completions than workers": (
        pod(JOB_COMPLETION_INDEX="3", HOSTNAME="digits-3"),
        "JOB_COMPLETION_INDEX=3, but TFBIG_WORKERS=3; set TFBIG_WORKERS to the Job's completions, "
        "which have to equal its parallelism.",
    ),
    "the node's hostname": (
        pod(HOSTNAME="node7"),
        "HOSTNAME='node7' does not end with -1, as the hostname of pod 1 of an indexed Job does; "
        "set TFBIG_JOB_NAME to the Job's name.",
    ),
    "no hostname": (
        pod(HOSTNAME=None),
        "HOSTNAME='' does not end with -1, as the hostname of pod 1 of an indexed Job does; set "
        "TFBIG_JOB_NAME to the Job's name.",
    ),
    "workers in words": (
        pod(TFBIG_WORKERS="three"),
        "TFBIG_WORKERS='three': expected a whole number, 1 or more.",
    ),
    "no worker": (
        pod(TFBIG_WORKERS="0"),
        "TFBIG_WORKERS='0': expected a whole number, 1 or more.",
    ),
    "a bad index": (
        pod(JOB_COMPLETION_INDEX="-1"),
        "JOB_COMPLETION_INDEX='-1': expected a whole number, 0 or more.",
    ),
    "a bad port": (pod(TFBIG_PORT="x"), "TFBIG_PORT='x': expected a whole number, 1 or more."),
    "a high port": (pod(TFBIG_PORT="70000"), "TFBIG_PORT=70000: expected a port, 1 to 65535."),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_in_the_manifest_are_named(case):
    environ, message = BAD[case]
    with pytest.raises(UserError) as raised:
        find_cluster(environ)
    assert str(raised.value) == message
