#!/bin/sh
# Makes a Debian machine ready for `make demo`, or with "test" for all of the work on the project.
# Installs only what is missing and says what and why; a second run finds nothing to do and takes no time.
#
#   scripts/bootstrap.sh [demo|test]
set -eu
cd "$(dirname "$0")/.."
purpose=${1:-demo}
PATH=$PATH:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*" && exit 1; }

# Runs a command as root; the first time that this needs a password it says what for.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    command -v sudo >/dev/null || die "this needs root: $* (run it as root, or install sudo)"
    [ "${told:-}" ] || say "sudo may ask for your password, to install packages and to prepare the kernel"
    told=yes
    sudo "$@"
  fi
}

# package, how to see that it is there, what it is for
packages() {
  cat <<'LIST'
python3 % python3 -c '' % runs everything
python3-venv % python3 -c 'import ensurepip, venv' % makes .venv
crun % command -v crun % runs containers
conmon % command -v conmon % watches containers
catatonit % command -v catatonit || test -x /usr/libexec/podman/catatonit % init of pods that share a process namespace
nftables % command -v nft % port mappings and masquerading
iproute2 % command -v ip % shows and removes links
busybox-static % test -x /bin/busybox && ! ldd /bin/busybox % content of the demo's image
LIST
  [ "$purpose" = demo ] || cat <<'LIST'
gcc % command -v gcc % small programs in test images
libc6-dev % test -e /usr/include/stdlib.h % small programs in test images
runc % command -v runc % a second OCI runtime: handlers are not only for crun
docker-registry % command -v docker-registry % a real registry to pull from
containernetworking-plugins % test -x /usr/lib/cni/bridge || test -x /opt/cni/bin/bridge % the plugins that the built-in ones must equal
mmdebstrap % command -v mmdebstrap % Debian images
iptables % command -v iptables % those plugins call it
procps % command -v ps % tests look at processes
kmod % command -v modprobe % loads kernel modules
git % command -v git % the tests look at what is committed
LIST
}

install_packages() {
  missing=
  while IFS='%' read -r name present reason; do
    name=$(echo $name)
    sh -c "$present" >/dev/null 2>&1 </dev/null && continue
    say "missing: $name ($(echo $reason))"
    missing="$missing $name"
  done <<LIST
$(packages)
LIST
  [ "$missing" ] || return 0
  command -v apt-get >/dev/null || die "this is not Debian; install the equivalents of:$missing"
  say "installing:$missing"
  # shellcheck disable=SC2086 # a list of words
  apt_install $missing || { as_root apt-get -qq update </dev/null && apt_install $missing; } ||
    die "apt-get failed: $(echo "$output" | tail -n 20)"
  case $missing in *docker-registry*)
    # Its service is of no use to us, and would sit on port 5000.
    [ ! -d /run/systemd/system ] || as_root systemctl --quiet disable --now docker-registry || true ;;
  esac
}

# Its many words are kept for the case that it fails.
apt_install() {
  output=$(as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" 2>&1 </dev/null)
}

make_venv() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
  extra=$([ "$purpose" = demo ] || echo '[dev]')
  # What was installed, from what: the stamp of a venv with the extra also serves the demo.
  sum=$(cksum <pyproject.toml)
  for stamp in .venv/.installed-dev .venv/.installed; do
    [ -z "$extra" ] || [ "$stamp" = .venv/.installed-dev ] || continue
    [ "$(cat "$stamp" 2>/dev/null)" = "$sum $PWD" ] && .venv/bin/python -c '' 2>/dev/null && return 0
  done
  say "installing sampan$extra into .venv"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extra" </dev/null ||
    die "pip failed, see above"
  echo "$sum $PWD" >".venv/.installed${extra:+-dev}"
}

load_modules() {
  grep -qw overlay /proc/filesystems || load overlay "root file systems of containers"
  grep -qw overlay /proc/filesystems || die "this kernel has no overlay file system"
  [ -d /proc/sys/net/bridge ] || load br_netfilter "port mappings between pods of one bridge"
}

load() {
  command -v modprobe >/dev/null || apt_install kmod || true
  say "loading kernel module $1 ($2)"
  as_root modprobe "$1" || say "could not load $1"
}

forward() {
  [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] && return 0
  say "turning on net.ipv4.ip_forward until the next boot (the bridge passes packets between pods and the host)"
  as_root sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# crun 1.8 refuses cgroup v1 while a controller sits on a v2 hierarchy beside it. A controller that nobody uses can
# be moved by mounting it; that of memory is left alone in any case.
settle_cgroups() {
  [ -s /sys/fs/cgroup/unified/cgroup.controllers ] || return 0
  for controller in $(cat /sys/fs/cgroup/unified/cgroup.controllers); do
    [ "$controller" != memory ] || { say "the memory controller is on cgroup v2 beside v1; leaving it"; continue; }
    say "cgroup v1 and v2 are both in use and '$controller' is on v2; mounting it on v1 (crun wants all on one side)"
    as_root mkdir -p "/sys/fs/cgroup/$controller" &&
      as_root mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" || say "could not mount $controller"
  done
}

case $purpose in demo | test) ;; *) die "usage: bootstrap.sh [demo|test]" ;; esac
install_packages
make_venv
load_modules
forward
settle_cgroups
