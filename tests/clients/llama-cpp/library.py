"""llama.cpp's libraries, from npm's node-llama-cpp, and the program that asks them (probe.c)."""
import os, subprocess

PACKAGE = "node-llama-cpp@3.21.1"
HERE = os.path.dirname(os.path.abspath(__file__))


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def prepare(folder):
    """Puts them into a folder, which must lie outside of the repository; needs npm, git and gcc."""
    os.makedirs(folder, exist_ok=True)
    modules = f"{folder}/node_modules"
    libraries = f"{modules}/@node-llama-cpp/linux-x64/bins/linux-x64"
    if not os.path.isdir(libraries):
        run("npm", "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", folder, PACKAGE)
    if not os.path.isdir(f"{folder}/llama.cpp"):
        run("git", "-c", "advice.detachedHead=false", "clone", "-q", f"{modules}/node-llama-cpp/llama/gitRelease.bundle", f"{folder}/llama.cpp")
    found = {name.split(".")[0]: f"{libraries}/{name}" for name in os.listdir(libraries)}
    run("gcc", "-O2", "-Wall", "-o", f"{folder}/probe", f"{HERE}/probe.c", f"-I{folder}/llama.cpp/include",
        f"-I{folder}/llama.cpp/ggml/include", found["libllama"], found["libggml"], found["libggml-base"],
        f"-Wl,-rpath,{libraries}")
    os.environ["LLAMA_LIBRARIES"] = libraries
