"Package metadata comes from settings.ini, nbdev's one source of truth; `data/` goes into the wheel."

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
readme = Path("README.md")


def words(key):
    return settings.get(key, "").split()


class BuildWithData(build_py):
    "Copies `data/`, studies' results aside, to `mvl_bench/assets` of the wheel, never into the source tree."

    def run(self):
        super().run()
        if not self.editable_mode and Path("data").is_dir():
            target = Path(self.build_lib, settings["lib_name"], "assets")
            shutil.rmtree(target, ignore_errors=True)  # left by an earlier build
            skip = shutil.ignore_patterns("results", ".*")
            shutil.copytree("data", target, ignore=skip)


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    author=settings["author"],
    author_email=settings["author_email"],
    license=settings["license"],
    url=settings["git_url"],
    keywords=words("keywords"),
    classifiers=["Programming Language :: Python :: 3"],
    python_requires=">=" + settings["min_python"],
    packages=find_packages(include=[settings["lib_name"], settings["lib_name"] + ".*"]),
    package_data={settings["lib_name"]: ["apps/board/static/**", "apps/panels/static/**"]},
    install_requires=words("requirements"),
    extras_require={
        "dev": words("dev_requirements"),
        "easy-vqa": words("easy_vqa_requirements"),
        "export": words("export_requirements"),
    },
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    entry_points={
        "console_scripts": words("console_scripts"),
        "nbdev": [f"{settings['lib_name']}={settings['lib_path']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithData},
)
