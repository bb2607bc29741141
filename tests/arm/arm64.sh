#!/usr/bin/env bash
# Build for aarch64 with the project's own setup.py and run tests emulated (Debian on x86-64, as root).
#   tests/arm/arm64.sh FOLDER [TEST…]
# Left out: the kernel's limit of addresses (ulimit -v), which the emulator does not pass on.
# FOLDER keeps packages and objects for the next time. Traps: dpkg -x is enough (no second stage); pip must be
# told the version of the root's Python; CPython's headers of the root come last, glibc's are the cross compiler's.
set -euo pipefail
folder=$(realpath "$1"); shift
cd "$(dirname "$0")/../.."
here=$PWD root=$folder/root python=$PWD/.venv/bin/python
mkdir -p "$folder"

missing=()
for one in qemu-aarch64-static:qemu-user-static debootstrap:debootstrap unzip:unzip \
    aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu; do
  command -v "${one%%:*}" >/dev/null || missing+=("${one##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
    "${missing[@]}" libc6-dev-arm64-cross
fi

binfmt=/proc/sys/fs/binfmt_misc
mountpoint -q $binfmt || mount -t binfmt_misc none $binfmt
magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
[ -e $binfmt/qemu-aarch64 ] \
  || echo ":qemu-aarch64:M::$magic:$mask:/usr/bin/qemu-aarch64-static:FP" > $binfmt/register

if [ ! -e "$folder/root.ready" ]; then
  debootstrap --foreign --arch=arm64 --variant=minbase \
    --include=python3.11,python3.11-dev,libstdc++6 bookworm "$root"
  for package in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
  cp /etc/hosts "$root/etc/hosts"
  touch "$folder/root.ready"
fi

if [ ! -e "$folder/site.ready" ]; then
  platforms=()
  for tag in manylinux2014 manylinux_2_17 manylinux_2_26 manylinux_2_28; do
    platforms+=(--platform "${tag}_aarch64")
  done
  mapfile -t wanted < <("$python" -c '
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for one in project["dependencies"] + project["optional-dependencies"]["hub"]:
    print(one.replace(" ", ""))')
  "$python" -m pip download -q --dest "$folder/wheels" --only-binary=:all: \
    --python-version 3.11.2 --implementation cp --abi cp311 --abi abi3 --abi none \
    "${platforms[@]}" "${wanted[@]}" pytest pytest-trio pytest-timeout hypothesis redis hiredis \
    async-timeout
  for wheel in "$folder"/wheels/*.whl; do unzip -qo "$wheel" -d "$folder/site"; done
  touch "$folder/site.ready"
fi

# In a copy: what is built here must not stand beside the objects of this machine.
copy=$folder/edgesync
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp -u --parents -t "$copy" 2>/dev/null || true
mkdir -p "$copy/build" "$copy/.cache"
cp -ru build/sources "$copy/build/"; cp -ru .cache/sdists "$copy/.cache/"
(cd "$copy" \
  && CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" \
     CFLAGS="-I$root/usr/include/python3.11 -idirafter $root/usr/include" \
     _PYTHON_HOST_PLATFORM=linux-aarch64 \
     SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so \
     "$python" setup.py --quiet build_ext --inplace --parallel 2)

mounts=()
leave() { for one in "${mounts[@]}"; do umount -l "$one"; done; }
trap leave EXIT
bind() { mkdir -p "$root$2"; mount --bind "$1" "$root$2"; mounts=("$root$2" "${mounts[@]}"); }
bind /proc /proc
bind /dev /dev
bind "$copy" /edgesync
bind "$folder/site" /site
[ $# -gt 0 ] || set -- tests/golden tests/native tests/transport/test_wire.py tests/transport/test_wire_golden.py
chroot "$root" /usr/bin/env PYTHONPATH=/edgesync:/edgesync/transport:/site \
  sh -c 'cd /edgesync && exec python3.11 -m pytest -v --color=no -p no:cacheprovider --timeout=900 \
    --hypothesis-profile=emulated \
    --deselect tests/native/test_store.py::test_a_map_that_cannot_be_had_is_refused_with_its_size "$@"' -- "$@"
