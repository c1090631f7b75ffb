"""The launchers: linted, and run against stand-ins of srun, scontrol, gcloud and kubectl that record their calls."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import processes
import pytest
import yaml
from tiny import flags_of

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), *ROOT.glob("launch/*/*.sh")])
SHORT = {"steps": 2, "eval_every": 2, "discriminator__enabled": False}

# Runs a command as SLURM_NTASKS tasks that find each other as those of SLURM do.
SRUN = """
while [ "${1#--}" != "$1" ]; do shift; done
children=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & children+=($!)
done
worst=0
for child in "${children[@]}"; do
  status=0; wait "$child" || status=$?; [ "$status" -gt "$worst" ] && worst=$status
done
exit "$worst"
"""
# A TPU that is there at the second look, and whose worker answers with what the test has put into $STATUSES. The first
# request fails, and so does every fourth question.
GCLOUD = """
asked=$(grep -c . "$CALLS")
case "$*" in
  *describe*) [ -f "$STATE" ] && [ $((asked % 4)) -ne 0 ] && { cat "$STATE"; echo ACTIVE > "$STATE"; } || exit 1 ;;
  *create*) [ -f "$STATE.refused" ] && echo PROVISIONING > "$STATE" || { touch "$STATE.refused"; exit 1; } ;;
  *delete*) rm -f "$STATE" ;;
  *scp*) [ ! -f "$STATE.unreachable" ] ;;
  *setsid*) ;;
  *"cat ~/simvq_jax/job.status"*) cat "$STATE.all" 2> /dev/null ;;
  *"cat job.status"*) head -n 1 "$STATUSES"; sed -i 1d "$STATUSES" ;;
  *job.flags*) cat "$STATE.running" ;;
  *pgrep*) [ -f "$STATE.running" ] && echo yes ;;
esac
"""


@pytest.fixture
def cluster(tmp_path):
    """An environment whose `commands` are stand-ins; each call is a line of CALLS."""

    def make(**commands: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, body in commands.items():
            file = folder / name
            file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$CALLS"\n{body}\n')
            file.chmod(file.stat().st_mode | stat.S_IEXEC)
        (tmp_path / "calls").touch()
        places = {"CALLS": tmp_path / "calls", "STATE": tmp_path / "state", "STATUSES": tmp_path / "statuses"}
        return processes.environment(1) | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            **{name: str(path) for name, path in places.items()},
        }

    return make


# Tests in the background of a shell ignore SIGINT, and a script that inherits that cannot trap it.
HEEDING = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])"""


def start(script: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-c", HEEDING, str(ROOT / "launch" / script), *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(script: str, *arguments: str, env: dict[str, str], seconds: float = 20) -> tuple[int, str]:
    process = start(script, *arguments, env=env)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it ran past {seconds} seconds, and had said: {process.communicate()[0]}")
    return process.returncode, said


def is_whole(folder: Path) -> bool:
    return (folder / "checkpoints/2").is_dir() and (folder / "evaluation.json").is_file()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound(script):
    linter = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([linter, "-x", "-P", str(ROOT), script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_local_job_of_two_processes(tmp_path):
    env = os.environ | {"PYTHON": sys.executable, "DEVICES": "2"}
    env["XLA_FLAGS"] = env["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    status, said = run("local.sh", "2", *flags_of(**SHORT), f"--workdir={tmp_path / 'run'}/", env=env, seconds=200)
    assert status == 0, said
    assert "on 4 cpu device(s) of 2 processes" in said and is_whole(tmp_path / "run")
    assert "eval/psnr" in (tmp_path / "run.process0.log").read_text()


@pytest.mark.slow
def test_a_preempted_job_ends_with_a_status_of_its_own(tmp_path):
    """And the same command ends the work."""
    long = SHORT | {"steps": 4000, "eval_every": 4000, "checkpoint_every": 10}
    env = processes.environment(1) | {"PYTHON": sys.executable}
    process = start("job.sh", *flags_of(**long), f"--workdir={tmp_path / 'run'}", env=env)
    while not (tmp_path / "run/checkpoints/10").is_dir():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "stopped at step" in said and not (tmp_path / "run/evaluation.json").exists()


def test_the_keyboard_ends_an_evaluation_too(cluster, tmp_path):
    evaluation = 'trap "touch $STATE.ended; exit 143" TERM; touch "$STATE.begun"; sleep 20 > /dev/null 2>&1 & wait'
    env = cluster(stand_in=f'case "$*" in *evaluate*) {evaluation} ;; esac') | {
        "PYTHON": str(tmp_path / "bin/stand_in")
    }
    process = start("job.sh", "--config=a", f"--workdir={tmp_path / 'run'}", env=env)
    while not (tmp_path / "state.begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130 and (tmp_path / "state.ended").exists()


def slurm(tmp_path, **more: str) -> dict[str, str]:
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "ROOT": str(ROOT)}
    return job | more


@pytest.mark.slow
def test_slurm_tasks_find_each_other(cluster, tmp_path):
    env = cluster(srun=SRUN, scontrol="") | slurm(tmp_path)
    status, said = run("slurm.sbatch", *flags_of(**SHORT), f"--workdir={tmp_path / 'run'}", env=env, seconds=200)
    assert status == 0, said
    assert "on 2 cpu device(s) of 2 processes" in said and is_whole(tmp_path / "run")
    assert [call.split()[0] for call in (tmp_path / "calls").read_text().splitlines()] == ["srun"]


@pytest.mark.parametrize(
    ("ended", "restarts", "status", "requeued"),
    [(75, 0, 0, True), (134, 3, 0, True), (2, 0, 2, False), (75, 100, 75, False)],
)
def test_a_slurm_job_is_put_back_unless_that_is_of_no_use(cluster, tmp_path, ended, restarts, status, requeued):
    env = cluster(srun=f"exit {ended}", scontrol="") | slurm(tmp_path, SLURM_RESTART_COUNT=str(restarts))
    found, said = run("slurm.sbatch", "--config=x", "--workdir=y", env=env)
    assert found == status, said
    assert (f"scontrol requeue {os.getpid()}" in (tmp_path / "calls").read_text()) == requeued


def test_the_mistake_of_one_slurm_task_is_heard_among_the_others(cluster, tmp_path):
    """The first task has a config that is not there; the second sees it leave."""
    srun = 'while [ "${1#--}" != "$1" ]; do shift; done; "$@"; [ $? -eq 2 ] || exit 1; exit 75'
    env = cluster(srun=srun, scontrol="") | slurm(tmp_path, SLURM_NTASKS="1")
    status, said = run("slurm.sbatch", "--config=nowhere.py", f"--workdir={tmp_path / 'run'}", env=env, seconds=60)
    assert status == 2 and "nowhere.py" in said and "which another start would not mend" in said
    assert "requeue" not in (tmp_path / "calls").read_text() and not list(ROOT.glob(".mistake-*"))


def tpu(tmp_path, *statuses: str) -> dict[str, str]:
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    return {"ZONE": "us-west4-a", "TYPE": "v5litepod-16", "SPOT": "1", "POLL": "0"}


def test_a_tpu_is_asked_for_until_the_run_is_whole(cluster, tmp_path):
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "", "75", "0")
    status, said = run("tpu_pod.sh", "run", "--config=a b", "--workdir=gs://bucket/run", env=env)
    assert status == 0, said
    calls = (tmp_path / "calls").read_text().splitlines()
    created = [call for call in calls if " create " in call]
    assert len(created) >= 2 and set(created) == {
        "gcloud compute tpus queued-resources create simvq --node-id=simvq --accelerator-type=v5litepod-16"
        " --runtime-version=v2-alpha-tpuv5-lite --spot --zone=us-west4-a"
    }
    started = [call for call in calls if "setsid nohup" in call]
    assert len(started) == 2 and all("--worker=all" in call and r"a\\\ b" in call for call in started)
    assert "delete simvq --force --quiet" in calls[-1]


def test_a_mistake_on_a_tpu_is_not_tried_again(cluster, tmp_path):
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "2")
    status, said = run("tpu_pod.sh", "run", "--config=a", "--workdir=gs://bucket/run", env=env)
    assert status == 2 and "which another start would not mend" in said
    assert sum("setsid nohup" in call for call in (tmp_path / "calls").read_text().splitlines()) == 1


def test_the_mistake_of_any_worker_is_heard(cluster, tmp_path):
    """Worker 0 sees it leave, and ends with 75."""
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "running", "75")
    (tmp_path / "state.all").write_text("75\n2\n" + 100_000 * "75\n")  # more than a pipe holds
    status, said = run("tpu_pod.sh", "run", "--config=a", "--workdir=gs://bucket/run", env=env)
    assert status == 2 and "which another start would not mend" in said
    (shown,) = [call for call in (tmp_path / "calls").read_text().splitlines() if "job.log" in call and "tail" in call]
    assert "--worker=all" in shown


def test_where_the_commit_cannot_be_brought_nothing_is_started(cluster, tmp_path):
    """An older one may lie there."""
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "0") | {"TRIES": "3"}
    (tmp_path / "state.unreachable").touch()
    status, said = run("tpu_pod.sh", "run", "--config=a", "--workdir=gs://bucket/run", env=env)
    assert status != 0, said
    calls = (tmp_path / "calls").read_text()
    assert " scp " in calls and "tar -xzf" not in calls and "setsid" not in calls


# An interpreter that makes an environment of itself, whose pip fails.
BROKEN = """
case "$*" in
  *"-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  *"pip install"*) echo "no network" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What a bare machine needs of this one to install."""
    copy = tmp_path / "my checkout"
    for name in ("launch/setup.sh", "launch/quickstart.sh", "simvq_jax/accelerators.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def test_an_install_that_fails_ends_the_quickstart_and_is_tried_again(cluster, checkout):
    env = cluster(python3=BROKEN) | {"ACCELERATOR": "none"}
    for _ in range(2):
        status, said = run(str(checkout / "launch/quickstart.sh"), env=env)
        assert status == 1 and "no network" in said and "error: pip could not install" in said
        assert "training SimVQ" not in said and not list((checkout / ".venv").glob("installed*"))


def test_a_python_that_is_named_and_does_not_serve_is_told(cluster, checkout):
    env = cluster(python3=BROKEN) | {"PYTHON_BASE": "/no such/python3", "ACCELERATOR": "none"}
    status, said = run(str(checkout / "launch/quickstart.sh"), env=env)
    assert status == 1 and said.count("\n") == 1
    assert "error: PYTHON_BASE is '/no such/python3' but must be a Python of version 3.11 or newer" in said


def test_a_job_that_runs_on_a_tpu_is_waited_for(cluster, tmp_path):
    """Not started beside itself, by one who calls again after the connection was lost."""
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "", "", "0")
    (tmp_path / "state").write_text("ACTIVE\n")
    (tmp_path / "state.running").write_text("--config=a --workdir=gs://bucket/run\n")
    status, said = run("tpu_pod.sh", "run", "--config=a", "--workdir=gs://bucket/run", env=env)
    assert status == 0 and "this job is running there" in said
    assert not [call for call in (tmp_path / "calls").read_text().splitlines() if "setsid nohup" in call]


def test_another_job_that_runs_on_a_tpu_is_left_alone(cluster, tmp_path):
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "0")
    (tmp_path / "state").write_text("ACTIVE\n")
    (tmp_path / "state.running").write_text("--config=b --workdir=gs://bucket/other\n")
    status, said = run("tpu_pod.sh", "run", "--config=a", "--workdir=gs://bucket/run", env=env)
    assert status == 2 and "another job runs on simvq (--config=b --workdir=gs://bucket/other)" in said
    assert "setsid" not in (tmp_path / "calls").read_text() and "delete" not in (tmp_path / "calls").read_text()


def test_a_worker_that_forgot_its_job_is_not_waited_for(cluster, tmp_path):
    """It answers, but there is neither a job nor the status of one."""
    env = cluster(gcloud=GCLOUD) | tpu(tmp_path, "running", "gone", "running", "gone", "gone", "0")
    status, said = run("tpu_pod.sh", "run", "--config=a", "--workdir=gs://bucket/run", env=env)
    assert status == 0 and "ended with status 75 before its end: goes on" in said
    assert sum("setsid nohup" in call for call in (tmp_path / "calls").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("script", "arguments", "env", "message"),
    [
        ("tpu_pod.sh", ["train"], {}, "'train' is no command: give run, create"),
        ("tpu_pod.sh", ["run"], {}, "ZONE is not set"),
        ("tpu_pod.sh", ["run"], {"ZONE": "z"}, "TYPE is not set"),
        ("gke/submit.sh", ["cpu"], {}, "'cpu' is no kind of node"),
        ("gke/submit.sh", ["gpu", "--workdir=a"], {}, "IMAGE is not set"),
        ("gke/submit.sh", ["gpu"], {"IMAGE": "x"}, "--workdir=RUN is missing"),
        ("local.sh", ["two"], {}, "'two' is no number of processes"),
        ("local.sh", ["00"], {}, "'00' is no number of processes"),
        ("job.sh", ["--config=a"], {}, "--workdir=RUN is missing"),
        ("job.sh", ["--config=a", "--workdir=b", "--stop_at=5"], {}, "--stop_at=5 would end the job as if it were"),
        ("slurm.sbatch", [], {"ROOT": "/tmp"}, "/tmp is no checkout of simvq_jax"),
    ],
)
def test_mistakes_are_one_sentence(script, arguments, env, message):
    clean = {name: value for name, value in os.environ.items() if name not in ("ZONE", "TYPE", "IMAGE")}
    status, said = run(script, *arguments, env=clean | {"PYTHON": sys.executable} | env)
    assert status == 2
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_manifests_are_job_sets(cluster, tmp_path, kind):
    """By the part of JobSet's schema that they use, in which unknown keys are forbidden."""
    env = cluster(kubectl='cat > "$STATE"') | {"IMAGE": "registry/simvq:1", "PROCESSES": "4"}
    flags = ["--config=configs/quickstart.py", "--workdir=gs://bucket/My_run", '--config.data.crop_scale=(0.5,"1")']
    status, said = run("gke/submit.sh", kind, *flags, env=env)
    assert status == 0, said
    assert "kubectl apply -f -" in (tmp_path / "calls").read_text()
    text = (tmp_path / "state").read_text()
    assert "${" not in text
    manifest = yaml.safe_load(text)
    jsonschema.validate(manifest, json.loads((ROOT / "tests/fixtures/jobset_schema.json").read_text()))
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert manifest["metadata"]["name"] == "simvq-my-run"
    assert job["completions"] == job["parallelism"] == 4
    assert container["image"] == "registry/simvq:1" and container["args"] == flags
