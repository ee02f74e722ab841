"""scripts/setup on machines of every kind: which commands it runs, what it says, how it ends."""

from __future__ import annotations

import pytest


class TestGdal:
    def test_the_binding_is_built_for_this_libgdal_with_numpy_there(self, machine):
        machine.can_compile()
        result = machine.setup()
        assert result.returncode == 0, result.stderr
        (build,) = machine.calls("GDAL==")
        assert "GDAL==3.6.2.*" in build
        for option in ("--no-build-isolation", "--no-cache-dir", "--no-binary GDAL", "--force-reinstall"):
            assert option in build
        pip = machine.calls("python -m pip")
        numpy = next(index for index, line in enumerate(pip) if "numpy" in line)
        assert numpy < pip.index(build)

    def test_a_gdal_that_works_is_used_and_nothing_built(self, machine):
        machine.know("gdal")
        result = machine.setup()
        assert result.returncode == 0, result.stderr
        assert not machine.calls("GDAL==")
        assert len(machine.calls("--system-site-packages")) == 1

    def test_an_environment_without_it_does_not_look_outside(self, machine):
        machine.can_compile()
        assert machine.setup().returncode == 0
        assert not machine.calls("--system-site-packages")

    def test_a_binding_that_stops_working_is_built_anew(self, machine):
        machine.can_compile()
        machine.setup()
        machine.forget("gdal")
        result = machine.setup()
        assert result.returncode == 0, result.stderr
        assert len(machine.calls("GDAL==")) == 1

    def test_a_build_that_does_not_help_ends_with_3(self, machine):
        machine.can_compile()
        machine.know("build-is-broken")
        result = machine.setup()
        assert result.returncode == 3
        assert "does not work" in result.stderr
        assert "conda install -c conda-forge gdal" in result.stderr

    def test_a_build_that_fails_shows_the_compilers_words(self, machine):
        machine.can_compile()
        machine.know("build-fails")
        result = machine.setup()
        assert result.returncode == 3
        assert "gdal.h: no such file" in result.stderr

    def test_a_libgdal_that_is_too_old_is_refused(self, machine):
        machine.can_compile()
        machine.have("gdal-config", "#!/usr/bin/env bash\necho 3.0.4\n")
        result = machine.setup()
        assert result.returncode == 3
        assert "libgdal 3.0.4 is too old" in result.stderr
        assert not machine.calls("GDAL==")


class TestElsewhere:
    def test_a_mac_gets_its_conda_forge_command_before_anything_is_installed(self, machine):
        machine.system("Darwin", "arm64")
        result = machine.setup()
        assert result.returncode == 3
        assert "conda create -n slidesampler -c conda-forge python=3.12 gdal" in result.stderr
        assert "Miniforge3-MacOSX-arm64.sh" in result.stderr
        assert not machine.calls("python -m pip")

    def test_linux_without_apt_gets_the_installer_for_linux(self, machine):
        machine.system("Linux", "aarch64")
        result = machine.setup()
        assert result.returncode == 3
        assert "Miniforge3-Linux-aarch64.sh" in result.stderr

    def test_who_has_conda_is_not_told_to_install_it(self, machine):
        machine.have("conda")
        result = machine.setup()
        assert result.returncode == 3
        assert "Miniforge3" not in result.stderr

    def test_in_a_conda_environment_the_command_is_for_that_environment(self, machine):
        machine.have("conda")
        result = machine.setup(CONDA_PREFIX="/opt/conda/envs/slides", CONDA_DEFAULT_ENV="slides")
        assert result.returncode == 3
        assert "conda install -n slides -c conda-forge gdal" in result.stderr

    def test_debian_without_root_gets_both_ways(self, debian):
        debian.have("id", "#!/usr/bin/env bash\necho 1000\n")
        result = debian.setup()
        assert result.returncode == 3
        assert "sudo apt-get install" in result.stderr
        assert "conda-forge" in result.stderr
        assert not debian.calls("apt-get")


class TestDebian:
    def test_what_is_missing_is_installed_once(self, debian):
        result = debian.setup()
        assert result.returncode == 0, result.stderr
        assert len(debian.calls("apt-get update")) == 1
        (install,) = debian.calls("install -y")
        for package in ("libgdal-dev", "build-essential", "python3.11-dev"):
            assert package in install
        assert "GDAL==3.6.2.*" in debian.calls("GDAL==")[0]

    def test_what_is_there_is_not_installed(self, debian):
        debian.can_compile()
        result = debian.setup()
        assert result.returncode == 0, result.stderr
        assert not debian.calls("apt-get")

    def test_the_missing_half_of_venv_is_installed(self, debian):
        debian.can_compile()
        debian.forget("venv")
        result = debian.setup()
        assert result.returncode == 0, result.stderr
        assert "python3.11-venv" in debian.calls("install -y")[0]

    def test_sudo_is_used_where_root_is_not(self, debian):
        debian.have("id", "#!/usr/bin/env bash\necho 1000\n")
        debian.have(
            "sudo", '#!/usr/bin/env bash\n[ "$1" = -n ] && exit\necho sudo "$1" >>"$STATE/calls"\n"$@"\n'
        )
        result = debian.setup()
        assert result.returncode == 0, result.stderr
        assert "sudo apt-get" in debian.calls("sudo")


class TestPython:
    def test_an_old_python_is_refused_with_the_way_to_a_newer_one(self, machine):
        machine.know("python-is-old")
        result = machine.setup()
        assert result.returncode == 3
        assert "Python 3.11 or newer was not found" in result.stderr
        assert "conda-forge" in result.stderr

    def test_the_interpreter_that_was_named_is_used(self, machine):
        machine.can_compile()
        machine.have("mine", PYTHON_THAT_SAYS_SO)
        result = machine.setup(SLIDESAMPLER_PYTHON=str(machine.bin / "mine"))
        assert "making .venv with " + str(machine.bin / "mine") in result.stdout

    def test_a_named_interpreter_that_does_not_run_is_an_error(self, machine):
        result = machine.setup(SLIDESAMPLER_PYTHON="/nowhere/python")
        assert result.returncode == 3
        assert "/nowhere/python" in result.stderr


PYTHON_THAT_SAYS_SO = '#!/usr/bin/env bash\nexec python3 "$@"\n'


class TestTorch:
    def install(self, machine):
        (line,) = [
            call for call in machine.calls("torch==") if "python -m pip" in call and "--dry-run" not in call
        ]
        return line

    def test_a_cpu_build_that_pip_finds_by_itself_is_taken_as_it_is(self, machine):
        machine.know("gdal")
        assert machine.setup().returncode == 0
        assert self.install(machine).endswith("install torch==2.13.0")

    def test_else_the_index_of_cpu_builds_is_asked(self, machine):
        machine.know("gdal", "cpu-index")
        machine.forget("cpu-wheel")
        assert machine.setup().returncode == 0
        assert "--extra-index-url" in self.install(machine)
        assert self.install(machine).endswith("torch==2.13.0+cpu")

    def test_where_there_is_none_the_default_comes_with_a_warning(self, machine):
        machine.know("gdal")
        machine.forget("cpu-wheel")
        result = machine.setup()
        assert result.returncode == 0
        assert "no CPU build" in result.stderr
        assert self.install(machine).endswith("install torch==2.13.0")

    def test_a_machine_with_a_gpu_gets_the_default_build(self, machine):
        machine.know("gdal", "cpu-index")
        machine.forget("cpu-wheel")
        machine.have("nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H200'\n")
        result = machine.setup()
        assert result.returncode == 0
        assert "no CPU build" not in result.stderr
        assert self.install(machine).endswith("install torch==2.13.0")

    def test_a_failure_says_what_to_do(self, machine):
        machine.know("gdal", "torch-fails")
        result = machine.setup()
        assert result.returncode == 1
        assert "torch==2.13.0 could not be installed" in result.stderr
        assert "SLIDESAMPLER_PYTHON" in result.stderr


class TestAgain:
    def test_nothing_is_done_when_nothing_changed(self, machine):
        machine.can_compile()
        assert machine.setup().returncode == 0
        result = machine.setup()
        assert result.returncode == 0
        assert "ready" in result.stdout
        assert not machine.calls("python -m")

    @pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
    def test_a_changed_requirement_is_installed(self, machine, name):
        machine.can_compile()
        machine.setup()
        with (machine.root / name).open("a") as file:
            file.write("# changed\n")
        assert machine.setup().returncode == 0
        assert len(machine.calls("--editable")) == 1

    def test_a_package_that_no_longer_imports_is_installed(self, machine):
        machine.can_compile()
        machine.setup()
        machine.forget("imports")
        assert machine.setup().returncode == 0
        assert len(machine.calls("--editable")) == 1

    def test_force_goes_through_every_step(self, machine):
        machine.can_compile()
        machine.setup()
        assert machine.setup("--force").returncode == 0
        assert len(machine.calls("--editable")) == 1

    def test_a_step_that_failed_is_tried_again(self, machine):
        machine.know("gdal", "torch-fails")
        assert machine.setup().returncode == 1
        machine.forget("torch-fails")
        result = machine.setup()
        assert result.returncode == 0, result.stderr
        assert len(machine.calls("--editable")) == 1

    def test_two_opencvs_are_an_error(self, machine):
        machine.know("gdal", "two-opencv")
        result = machine.setup()
        assert result.returncode == 1
        assert "two OpenCVs" in result.stderr


class TestUsage:
    def test_help_goes_to_stdout_and_does_nothing(self, machine):
        result = machine.setup("--help")
        assert result.returncode == 0
        assert "usage: scripts/setup" in result.stdout
        assert not machine.calls("python")

    def test_an_unknown_option_is_wrong_usage(self, machine):
        result = machine.setup("--frce")
        assert result.returncode == 2
        assert "unknown option --frce" in result.stderr
        assert not machine.calls("python")
