"""A cluster on this machine: its output, its exit code, and its restarts."""

import json
import pathlib

import pytest

from tfbig.errors import UserError
from tfbig.launch import local
from tfbig.launch.local import launch


def test_lines_have_the_name_of_their_task_and_keep_their_stream(program):
    ran = program("print('out', name); print('err', name, file=sys.stderr)")
    assert ran.code == 0
    assert sorted(ran.out) == ["[worker 0] out worker 0", "[worker 1] out worker 1"]
    assert sorted(ran.err) == ["[worker 0] err worker 0", "[worker 1] err worker 1"]


def test_all_tasks_of_a_cluster_are_started(program):
    ran = program("print(os.environ['TF_CONFIG'])", workers=1, ps=1, evaluator=True)
    assert ran.code == 0
    configs = {}
    for name in ("chief", "worker 0", "ps 0", "evaluator"):
        (line,) = ran.printed_by(name)
        configs[name] = json.loads(line)
        type_, _, index = name.partition(" ")
        assert configs[name]["task"] == {"type": type_, "index": int(index or 0)}
    assert len({json.dumps(config["cluster"]) for config in configs.values()}) == 1
    assert list(configs["chief"]["cluster"]) == ["chief", "worker", "ps"]


def test_long_output_without_newlines_does_not_block(program):
    ran = program(
        """
        data = (b"x" if name == "worker 0" else b"\\xff") * 300_000
        for stream in (1, 2):
            rest = data
            while rest: rest = rest[os.write(stream, rest):]
        """
    )
    assert ran.code == 0
    for stream in (ran.out, ran.err):
        assert sum(line.count("x") for line in stream) == 300_000
        assert sum(line.count("\N{REPLACEMENT CHARACTER}") for line in stream) == 300_000
        assert all(line.startswith(("[worker 0] x", "[worker 1] \ufffd")) for line in stream)


def test_lines_of_several_tasks_are_never_mixed(program):
    ran = program("for i in range(5000): print(name, i, 'x' * (i % 200))", workers=4)
    for i in range(4):
        expected = [f"worker {i} {n} {'x' * (n % 200)}".rstrip() for n in range(5000)]
        assert [line.rstrip() for line in ran.printed_by(f"worker {i}")] == expected


@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("sys.exit(0)", 0, None),
        ("sys.exit(3)", 3, "worker 0 ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "worker 0 was killed by SIGKILL"),
        ("os.abort()", 134, "worker 0 was killed by SIGABRT"),
    ],
)
def test_the_exit_code_is_that_of_the_chief(program, body, code, last):
    ran = program(body, restarts=0, workers=1)
    assert ran.code == code
    assert ran.err == ([f"tfbig launch: {last}"] if last else [])


@pytest.mark.parametrize("ps", [0, 1])
def test_the_exit_code_of_a_failed_chief_wins(program, ps):
    # worker 1 fails first; the chief then leaves by itself.
    ran = program(
        """
        if name == "worker 1": note(os.getpid()); sys.exit(4)
        if "ps" in name: signal.pause()
        wait_for_end("worker 1")
        sys.exit(5)
        """,
        timeouts={"after_failure": 3},
        restarts=0,
        ps=ps,
    )
    assert ran.code == 5
    assert ran.err == ["tfbig launch: worker 1 ended with exit code 4"]


def test_a_failed_cluster_is_restarted_with_new_ports(program):
    ran = program(
        """
        print(attempt, os.environ["TF_CONFIG"])
        if attempt < 2 and name == "worker 1": note(os.getpid()); os.kill(os.getpid(), 9)
        if attempt < 2: wait_for_end("worker 1"); (folder / "worker 1").unlink(); sys.exit(1)
        """
    )
    assert ran.code == 0
    assert ran.err == [
        "tfbig launch: worker 1 was killed by SIGKILL; restart 1 of 3",
        "tfbig launch: worker 1 was killed by SIGKILL; restart 2 of 3",
    ]
    addresses = []
    for name in ("worker 0", "worker 1"):
        lines = [line.partition(" ") for line in ran.printed_by(name)]
        assert [attempt for attempt, _, _ in lines] == ["0", "1", "2"]
        addresses.append([json.loads(config)["cluster"]["worker"] for _, _, config in lines])
    assert addresses[0] == addresses[1]
    assert len({address for start in addresses[0] for address in start}) == 6


def test_a_port_is_not_used_for_two_starts(program, monkeypatch):
    given, asked = iter([[11], [12], [13]]), []
    monkeypatch.setattr(
        local, "free_ports", lambda count, excluded: asked.append(set(excluded)) or next(given)
    )
    program("sys.exit(1)", workers=1, restarts=2)
    assert asked == [set(), {11}, {11, 12}]


def test_the_number_of_restarts_is_limited(program):
    ran = program("print(attempt); sys.exit(7)", restarts=2)
    assert ran.code == 7
    assert ran.printed_by("worker 0") == ["0", "1", "2"]
    failed = [line for line in ran.err if line.endswith("restart 2 of 2")]
    assert len(failed) == 1
    assert len(ran.err) == 3
    assert ran.err[-1].endswith(" ended with exit code 7, after 2 restarts")


@pytest.mark.parametrize("code", [2, 126, 127])
def test_permanent_failures_are_not_restarted(program, code):
    ran = program(f"print(attempt); sys.exit({code})", workers=1)
    assert (ran.code, ran.out) == (code, ["[worker 0] 0"])
    assert ran.err == [f"tfbig launch: worker 0 ended with exit code {code}"]


def test_a_failed_evaluator_restarts_all_tasks(program):
    ran = program(
        """
        if attempt: sys.exit(0)
        if name == "evaluator 0": sys.exit(1)
        signal.pause()
        """,
        workers=1,
        evaluator=True,
    )
    assert ran.code == 0
    assert ran.err == ["tfbig launch: evaluator ended with exit code 1; restart 1 of 3"]


@pytest.mark.parametrize("failing", ["worker 1", "evaluator 0"])
def test_with_a_ps_a_failed_worker_or_evaluator_is_restarted_alone(program, failing):
    ran = program(
        f"""
        print(attempt)
        if name == "chief 0": wait_for("again"); sys.exit(0)
        if name == {failing!r}:
            if (folder / "failed").exists(): note(0, "again")
            else: note(0, "failed"); os.kill(os.getpid(), 9)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.pause()
        """,
        ps=1,
        evaluator=True,
    )
    said = failing.removesuffix(" 0") if failing == "evaluator 0" else failing
    assert ran.code == 0
    assert f"tfbig launch: {said} was killed by SIGKILL; it is restarted, the others continue" in (
        ran.err
    )
    assert ran.printed_by(said) == ["0", "0"]  # the other tasks were not restarted
    assert ran.printed_by("chief") == ran.printed_by("ps 0") == ["0"]


def test_a_worker_that_fails_repeatedly_restarts_all_tasks(program):
    ran = program(
        """
        print(attempt)
        if attempt: sys.exit(0)
        if name == "worker 0": sys.exit(1)
        signal.pause()
        """,
        ps=1,
        workers=1,
        restarts=2,
    )
    assert ran.code == 0
    assert ran.printed_by("worker 0") == ["0", "0", "0", "1"]
    assert ran.err[-1] == "tfbig launch: worker 0 ended with exit code 1; restart 1 of 2"


def test_remaining_tasks_get_sigterm_and_then_sigkill_after_a_failure(program, gone):
    # worker 1 leaves at SIGTERM, worker 2 ignores it, worker 3 is frozen.
    ran = program(
        """
        if name == "worker 1":
            signal.signal(signal.SIGTERM, lambda *_: (note("terminated"), os._exit(0)))
        if name == "worker 2":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if name == "worker 0":
            for i in (1, 2, 3): wait_for(f"pid {i}")
            sys.exit(9)
        note(os.getpid(), f"pid {task['index']}")
        if name == "worker 3": os.kill(os.getpid(), signal.SIGSTOP)
        while True: signal.pause()
        """,
        workers=4,
        restarts=0,
    )
    assert ran.code == 9
    assert ran.err == ["tfbig launch: worker 0 ended with exit code 9"]
    assert program.noted("worker 1") == "terminated"
    gone(*(int(program.noted(f"pid {i}")) for i in (1, 2, 3)))


def test_the_exit_code_is_that_of_the_failed_task_if_the_chief_was_terminated(program):
    ran = program('sys.exit(6) if name == "worker 1" else signal.pause()', restarts=0)
    assert ran.code == 6
    assert ran.err == ["tfbig launch: worker 1 ended with exit code 6"]


@pytest.mark.slow
def test_ps_and_evaluator_are_stopped_after_the_chief(program, gone):
    ran = program(
        """
        note(os.getpid())
        if name == "ps 0": signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if name in ("ps 0", "evaluator 0"):
            while True: signal.pause()
        for other in ("ps 0", "evaluator 0"): wait_for(other)
        """,
        timeouts={"workers": 20},
        workers=1,
        ps=1,
        evaluator=True,
    )
    assert (ran.code, ran.err) == (0, [])
    gone(*(int(program.noted(name)) for name in ("chief 0", "worker 0", "ps 0", "evaluator 0")))


def test_ps_and_evaluator_have_time_to_exit(program):
    ran = program(
        """
        if name == "chief 0": sys.exit(0)
        time.sleep(0.5)
        print("ended by itself")
        """,
        timeouts={"helpers": 20, "workers": 20},
        ps=1,
        evaluator=True,
    )
    assert (ran.code, ran.err) == (0, [])
    for name in ("ps 0", "evaluator", "worker 0"):
        assert ran.printed_by(name) == ["ended by itself"]


def test_a_worker_that_runs_on_after_the_job_is_stopped_and_reported(program):
    ran = program('signal.pause() if name == "worker 1" else None')
    assert ran.code == 0
    assert ran.err == [
        "tfbig launch: worker 1 is still running 0.8 s after the job finished; it is stopped"
    ]


def test_a_finished_job_is_not_restarted(program):
    ran = program(
        """
        if name == "worker 1": wait_for_end("worker 0"); sys.exit(3)
        note(os.getpid())
        """,
        timeouts={"workers": 20},
    )
    assert ran.code == 0
    assert ran.err == ["tfbig launch: worker 1 ended with exit code 3, after the job finished"]


def test_the_chief_may_finish_after_a_worker_failed(program):
    ran = program(
        """
        if name == "worker 1": note(os.getpid()); sys.exit(3)
        wait_for_end("worker 1")
        """,
        timeouts={"after_failure": 20},
    )
    assert ran.code == 0
    assert ran.err == ["tfbig launch: worker 1 ended with exit code 3, but the job has finished"]


@pytest.mark.parametrize("ending", ["sys.exit(143)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_stopped_task_is_not_a_failure(program, ending):
    # The others leave too: worker 0 saves, worker 2 breaks off.
    ran = program(
        f"""
        print(attempt)
        if name == "worker 1": note(os.getpid()); {ending}
        if name == "worker 2": wait_for_end("worker 1"); note(os.getpid()); sys.exit(1)
        wait_for_end("worker 2")
        sys.exit(143)
        """,
        timeouts={"workers": 20},
        workers=3,
    )
    assert ran.code == 143
    assert ran.printed_by("worker 0") == ["0"]
    how = "ended with exit code 143" if "exit" in ending else "was killed by SIGTERM"
    assert ran.err == [
        f"tfbig launch: worker 1 {how}: it was stopped; the other tasks are stopped too"
    ]


def test_processes_that_a_task_leaves_behind_end_with_it(program, gone):
    ran = program(
        """
        def child(code):
            return subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
        ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        quiet = child("import signal; signal.pause()")
        stubborn = child(ignores + "print('up', flush=True)\\nwhile True: signal.pause()")
        note(f"{quiet.pid} {stubborn.pid}")
        time.sleep(0.2)
        """
    )
    assert ran.code == 0
    for name in ("worker 0", "worker 1"):
        gone(*map(int, program.noted(name).split()))


def test_a_daemon_that_holds_the_output_open_does_not_hold_the_launcher(program, gone):
    ran = program(
        """
        code = "import signal; signal.pause()"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        note(child.pid)
        print("last words")
        """,
        workers=1,
    )
    assert (ran.code, ran.out) == (0, ["[worker 0] last words"])
    daemon = int(program.noted("worker 0"))
    with pytest.raises(AssertionError):  # it left the group of its own will; here it is ended
        gone(daemon)


def test_a_file_that_is_not_executable_is_reported_once(program, tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00\x01")
    broken.chmod(0o755)
    ran = program("")
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as out_file, err.open("w") as err_file:
        code = launch([str(broken)], workers=1, out=out_file, err=err_file)
    assert (ran.code, code, out.read_text()) == (0, 126, "")
    assert err.read_text().splitlines() == [
        f"[worker 0] {broken} cannot be started: Exec format error",
        "tfbig launch: worker 0 ended with exit code 126",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers=0: expected 1 or more."),
        ({"ps": -1}, "ps=-1: expected 0 or more."),
        ({"restarts": -1}, "restarts=-1: expected 0 or more."),
        ({"threads_per_task": 0}, "threads_per_task=0: expected 1 or more."),
        ({"command": []}, 'there is no command; pass one, such as ["python", "train.py"].'),
        (
            {"command": ["no-such-program"]},
            "'no-such-program' was not found or is not executable; pass a program on PATH, or a "
            "path.",
        ),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(UserError) as raised:
        launch(**({"command": ["true"]} | arguments))
    assert str(raised.value) == message


def test_standard_input_is_empty(program):
    ran = program("print(repr(sys.stdin.read()))", workers=1)
    assert ran.out == ["[worker 0] ''"]


def test_no_file_descriptor_of_the_launcher_is_left_open(program):
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    program("sys.exit(1)", restarts=1)
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before
