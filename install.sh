#!/bin/sh
# install.sh installs, upgrades and removes fleet: the server on a gateway, the
# agent on a device. It downloads and verifies; all else is done by the package
# manager and by the commands install, upgrade and uninstall of the programs.
# Flags, variables and exit statuses: docs/reference/install.md.
# shellcheck disable=SC2154,SC2012,SC2015 # parse_flags assigns the variables of the flags, busybox's find cannot match links, die ends
set -eu

# The public key (PEM) that releases are signed with.
RELEASE_KEY=''
# Filled in by the gateway that serves this file.
GATEWAY_URL=''
GATEWAY_CA_HASH=''
GATEWAY_PUBKEY_PIN=''

usage() {
	cat <<END
usage: install.sh [--role server|agent] [FLAG]...    (each is a variable too: FLEET_ROLE, FLEET_DATA_DIR, ...)
  --version VERSION   instead of the newest        --channel NAME      stable, unless named
  --mirror URL        where releases are           --bundle FILE|DIR   a release, instead of a mirror
  --release-pub FILE  key of the release           --ca-file FILE      CA of the mirror or proxy
  --packages MANAGER  apt, dnf or none             --no-start          configure, but do not start
  --dry-run           say what would be done       --uninstall --purge  remove; with all data   --yes  do not ask
  --allow-downgrade   take a release that is older than what is installed, or than what the server serves
server: --data-dir DIR   --listen ADDRESS   --tls-san NAME[,NAME]...
agent:  --server https://GATEWAY:8443   --token-file FILE, or \$FLEET_TOKEN, or it asks   --volumes  purge them, too
END
}

say() { printf 'install.sh: %s\n' "$*" | LC_ALL=C tr -c '\n -~' '?'; } # values from elsewhere steer no terminal
have() { command -v "$1" >/dev/null 2>&1; }
# die STATUS MESSAGE
die() { say "$2" >&2 && exit "$1"; }
# run COMMAND, which changes the host. Standard input may be this script.
run() { if [ -n "$dry_run" ]; then say "would run: $*"; else "$@" </dev/null; fi; }
# within COMMAND, which may write $limit MiB and take 1 GiB of memory: nobody vouches for a size before the signature is checked.
# shellcheck disable=SC3045 # dash and busybox have ulimit -v
within() { (ulimit -f $((limit * 2048)) && ulimit -v 1048576 && "$@"); }
finish_dpkg() { run env dpkg --force-confdef --force-confold --configure -a || true; } # until then apt does nothing
# unsupported CAUSE WAY_OUT
unsupported() {
	die 3 "$1: $2
  To report: $(uname -srm), $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null), init $(cat /proc/1/comm 2>/dev/null)"
}
# ask PROMPT: on the terminal, since standard input may be this script. Fails without one.
ask() { { printf '%s ' "$1" >/dev/tty; } 2>/dev/null && IFS= read -r answer </dev/tty; }

parse_flags() {
	gateway='' switches='no_start dry_run yes uninstall purge volumes allow_downgrade'
	values='role version channel mirror bundle release_pub ca_file packages data_dir listen tls_san server token_file'
	for flag in $switches $values token; do eval "$flag=\${FLEET_$(echo "$flag" | tr '[:lower:]' '[:upper:]'):-}"; done
	for flag in $switches; do eval "case \$$flag in '' | no | false | 0) $flag='' ;; *) $flag=1 ;; esac"; done
	unset FLEET_TOKEN # only the program that enrolls needs it
	while [ $# -gt 0 ]; do
		case $1 in
		-h | --help) usage && exit 0 ;;
		--token | --token=*) die 2 "every user can read a command line: hand the token over by --token-file or FLEET_TOKEN" ;;
		--*=*) flag=${1%%=*} value=${1#*=} ;;
		--*) flag=$1 value=${2:-} ;;
		*) die 2 "unknown argument $1: see --help" ;;
		esac
		flag=$(printf %s "${flag#--}" | tr - _ | tr -c 'a-z_' .)
		case " $switches | $values " in
		*" $flag "*\|*) case $1 in *=*) die 2 "$1: this is a switch, which has no value" ;; *) eval "$flag=1" ;; esac ;;
		*\|*" $flag "*)
			[ -n "$value" ] || die 2 "$1 needs a value: see --help"
			eval "$flag=\$value"
			case $1 in *=*) ;; *) shift ;; esac ;;
		*) die 2 "unknown flag $1: see --help" ;;
		esac
		shift
	done
	role=${role:-${GATEWAY_URL:+agent}} server=${server:-$GATEWAY_URL} channel=${channel:-stable} mirror=${mirror%/} uninstall=$uninstall$purge
	if [ -n "$GATEWAY_URL" ] && [ -z "$bundle$mirror" ]; then mirror=$GATEWAY_URL/packages/mirror gateway=1; fi
	case $role in server | agent) name=fleet-$role ;; *) die 2 "which part? use --role server or --role agent" ;; esac
	case $packages in '' | apt | dnf | none) ;; *) die 2 "--packages $packages: it must be apt, dnf or none" ;; esac
	case $version$channel in *[!A-Za-z0-9.~+_-]*) die 2 "--version and --channel have letters, digits and .~+_- only" ;; esac
	case $mirror in '' | https://* | http://* | file://*) ;; *) die 2 "--mirror $mirror: it must begin with https://, http:// or file://" ;; esac
	case $server in '' | https://*) ;; *) die 2 "--server $server: it must have the form https://GATEWAY:8443" ;; esac
	case $tls_san in *[!A-Za-z0-9.:,*_-]*) die 2 "--tls-san has letters, digits and .:,*_- only" ;; esac
	case $listen in *[!][A-Za-z0-9.:-]*) die 2 "--listen has letters, digits and .:[]- only" ;; '['*']') ;; *:*:*) listen="[$listen]" ;; *:*) die 2 "--listen has no port: the server has three" ;; esac
	case $volumes-$role-$purge in -* | 1-agent-1) ;; *) die 2 "--volumes goes with --role agent --purge" ;; esac
}

# 64-bit kernels often run 32-bit programs, on a Raspberry Pi for example. Byte 18
# of an ELF file is the machine, bit 2 of byte 37 the hard-float ABI of ARM.
detect_host() {
	[ "$(uname -s)" = Linux ] || unsupported "fleet runs on Linux, and this is $(uname -s)" "use a Linux host"
	machine=$(od -An -tu1 -j18 -N1 /bin/sh | tr -d ' ')
	[ "$machine" != 40 ] || { [ $(($(od -An -tu1 -j37 -N1 /bin/sh) & 4)) != 0 ] && [ "$(uname -m)" != armv6l ]; } ||
		unsupported "this ARM system has no hardware floating point of ARMv7" "use a system for ARMv7 or 64-bit ARM"
	case $machine in
	62) arch=amd64 deb=amd64 rpm=x86_64 ;;
	183) arch=arm64 deb=arm64 rpm=aarch64 ;;
	40) arch=arm deb=armhf rpm=armv7hl ;;
	*) unsupported "there is no fleet for this architecture, $(uname -m)" "use amd64, arm64 or armhf" ;;
	esac
	# An image that is being built has no init that runs.
	[ "$role" = server ] || [ -d /run/systemd/system ] || { [ ! -e /run/openrc ] && [ ! -e /run/runit ]; } ||
		unsupported "the agent needs systemd, and another init runs here" "use a host with systemd"
}

detect_install() {
	manager=$packages form=package installed='' removed='' program=/usr/bin/$name
	if [ -z "$manager" ] && have apt-get && dpkg-query -W dpkg >/dev/null 2>&1; then manager=apt; fi
	if [ -z "$manager" ] && have dnf && rpm -q rpm >/dev/null 2>&1; then manager=dnf; fi
	manager=${manager:-none}
	if [ "$manager" = apt ] && [ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ]; then finish_dpkg; fi
	if [ -x "/usr/local/bin/$name" ]; then # it came without a package, and goes on so
		form=static program=/usr/local/bin/$name
		installed=$("$program" version | cut -d' ' -f2)
	elif [ -x "$program" ]; then
		case $manager in
		apt)
			installed=$(dpkg-query -W -f '${db:Status-Status} ${Version}' "$name") && installed=${installed#installed }
			case $installed in *' '*) finish_dpkg ;; esac ;;
		dnf) installed=$(rpm -q --qf '%{VERSION}' "$name") || installed='' ;; # it says on standard output what it does not know
		*) die 12 "$program is there, as from a package: omit --packages, or remove the package first" ;;
		esac
	elif [ "$manager" = none ]; then form=static program=/usr/local/bin/$name
	elif [ -n "$purge" ] && [ "$manager" = apt ] && dpkg-query -W "$name" >/dev/null 2>&1; then removed=1; fi
}

# listener PORT prints the name and the id of the process that listens there.
listener() {
	cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port=":$(printf %04X "$1")$" '$4 == "0A" && $2 ~ port { print $10 }' | while read -r inode; do
		pid=$(ls -l /proc/[0-9]*/fd 2>/dev/null | awk -F/ -v socket="socket:[$inode]" '/^\/proc/ { pid = $3 } index($0, socket) { print pid; exit }')
		echo "$(cat "/proc/${pid:-none}/comm" 2>/dev/null || echo 'an unknown process') (${pid:-?})"
	done
}

preflight() {
	case $role in server) size=350 ;; *) size=100 ;; esac
	for dir in "${TMPDIR:-/tmp}" /usr /var "${data_dir:-/var}"; do
		until [ -e "$dir" ]; do dir=$(dirname "$dir"); done
		free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1024) }')
		[ "$free" -ge $size ] || die 6 "$dir has $free MiB left and needs $size: make room, or set TMPDIR for downloads"
	done
	if [ "$role" = agent ] || [ -n "$installed" ] || [ -e /etc/fleet-server/config.yaml ]; then set --; else set -- 6443 4222 8443; fi
	for port; do owner=$(listener "$port") && [ -z "$owner" ] || die 5 "port $port is used by $owner: stop it, or name another port in /etc/fleet-server/config.yaml"; done
	dir=$(cd -P "${TMPDIR:-/tmp}" 2>/dev/null && pwd -P) && safe "$dir" || die 2 "another account can replace what lies in ${TMPDIR:-/tmp}: unset TMPDIR, or name a directory of root"
	tmp=$(mktemp -d "$dir/fleet-install.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT && trap 'exit 130' INT TERM HUP
}
# safe DIRECTORY: no other account can rename what lies in it, or a directory above it.
safe() {
	path=$1 && set -- / && until [ "$path" = / ]; do set -- "$@" "$path" && path=$(dirname "$path"); done
	ls -ldn "$@" | awk -v me="$(id -u)" 'NR == 1 { root = $3 } $3 != 0 && $3 != me && $3 != root { bad = 1 }
		$1 !~ /^.........[tT]/ && (substr($1, 9, 1) == "w" || substr($1, 6, 1) == "w" && $4 != 0) { bad = 1 } END { exit bad || !NR }'
}
# fetch PATH FILE: from the mirror, with the proxies that the environment names.
fetch() {
	have curl || die 8 "curl is missing: install it, or use --bundle"
	within curl --fail --silent --show-error --location --remote-time --retry 3 --connect-timeout 20 ${ca_file:+--cacert "$ca_file"} \
		${gateway:+--insecure --pinnedpubkey "$GATEWAY_PUBKEY_PIN"} --output "$2" "$mirror/$1" ||
		die 8 "$mirror/$1 was not downloaded: check address, proxy, CA and clock ($(date))"
}
# get FILE...: regular files of the release, from bundle or mirror, as copies that only root can change.
get() {
	if [ -z "$bundle" ]; then for file; do fetch "$version/$file" "$tmp/$file"; done && return; fi
	for file; do
		if [ -d "$bundle" ]; then
			[ -f "$bundle/$file" ] && [ ! -L "$bundle/$file" ] && within cat "$bundle/$file" >"$tmp/$file" && touch -r "$bundle/$file" "$tmp/$file"
		else
			within tar -xOf - "$file" <"$bundle" >"$tmp/$file" && made=$(within tar -tvf - "$file" <"$bundle" |
				awk -v file="$file" '/^-/ && $NF == file && $(NF - 1) ~ /^[0-9:]*$/ { print $(NF - 2), $(NF - 1) }') && [ -n "$made" ] && touch -d "$made" "$tmp/$file"
		fi || die 8 "$bundle has no regular file $file: is it a release?"
	done
}

# sortable VERSION prints it so that the order of bytes is that of dpkg: a tilde
# before all, then the end or a number, then letters, then all else.
sortable() { echo "$1" | sed 's/[^A-Za-z0-9~]/{&/g; s/~/!/g; s/[0-9]\{1,\}/#00000000000000000000&/g; s/#0*\([0-9]\{20\}\)/#\1/g; s/$/#/'; }

# older VERSION THAN
older() { LC_ALL=C expr "x$(sortable "$1")" \< "x$(sortable "$2")" >/dev/null; }

# refuse_older: old releases are signed, too, and bring their faults back.
refuse_older() {
	case $allow_downgrade-${installed##* } in -[0-9]*) ;; *) return 0 ;; esac
	! older "$version" "${installed##* }" ||
		die 12 "version $version is older than ${installed##* }, which is installed: to go back, say --allow-downgrade"
}

# allows COMMAND... prints the flag for a program that knows it: older ones go back without.
allows() { if [ -n "$allow_downgrade" ] && "$setup" "$@" --help 2>/dev/null | grep -q -e --allow-downgrade; then echo --allow-downgrade; fi; }

# check_channel: nobody signed what CHANNEL/version says, but the release says for which channels it was made.
check_channel() {
	grep -q ' release.txt$' "$tmp/checksums.txt" || die 9 "no signed file says which channel release $version belongs to: name the version with --version"
	verified release.txt
	case " $(sed -n 's/^Channels: //p' "$tmp/release.txt") " in
	*" $channel "*) dated=", made $(sed -n 's/^Date: //p' "$tmp/release.txt")" ;;
	*) die 9 "release $version was not made for the channel $channel: nothing was installed" ;;
	esac
}

# verified FILE: get, and compare with the list that the release's key signed.
verified() {
	want=$(awk -v file="$1" '$2 == file { print $1 }' "$tmp/checksums.txt")
	[ -n "$want" ] || die 9 "the release has no $1: was it made for this architecture?"
	[ -e "$tmp/$1" ] || get "$1"
	[ "$(sha256sum <"$tmp/$1" | cut -d' ' -f1)" = "$want" ] || die 9 "$1 is damaged or was tampered with: nothing was installed"
}
check_signature() {
	if [ -n "$gateway" ] && [ -z "$release_pub" ] && { [ -z "$RELEASE_KEY" ] || ! have openssl; }; then return; fi # the gateway has checked it
	if [ -z "$release_pub" ] && [ -n "$RELEASE_KEY" ]; then release_pub=$tmp/release.key && echo "$RELEASE_KEY" >"$release_pub"; fi
	[ -n "$release_pub" ] || die 9 "this copy of install.sh contains no release key: name one with --release-pub"
	have openssl || die 9 "openssl is missing, which checks the signature: install it"
	openssl dgst -sha256 -verify "$release_pub" -signature "$tmp/checksums.txt.sig" "$tmp/checksums.txt" >/dev/null 2>&1 ||
		die 9 "the release is not signed by the key that this install.sh has: nothing was installed"
}

find_release() {
	if [ -z "$bundle$mirror" ] && [ -f "$(dirname "$0")/checksums.txt" ]; then bundle=$(dirname "$0"); fi
	[ -z "$bundle" ] || [ -e "$bundle" ] || die 8 "$bundle does not exist"
	[ -n "$bundle$mirror" ] || die 2 "where is the release? use --mirror URL or --bundle FILE"
	wanted=$version limit=1 offered='' dated=''
	if [ -z "$bundle$version" ]; then
		fetch "$channel/version" "$tmp/version" && version=$(cat "$tmp/version")
		case $version in '' | *[!A-Za-z0-9.~+_-]*) die 8 "$mirror/$channel/version names no version" ;; esac
		wanted=$version offered=1
	fi
	get checksums.txt checksums.txt.sig version
	check_signature
	limit=$size && : >"$tmp/now" && verified version && version=$(cat "$tmp/version")
	[ "${wanted:-$version}" = "$version" ] || die 9 "this is version $version, not $wanted"
	[ -z "$(find "$tmp/checksums.txt" -newer "$tmp/now")" ] || die 7 "the clock says $(date), which is before this release was made: set it"
	[ -z "$offered" ] || [ -n "$gateway" ] || check_channel
	refuse_older
	say "$name $version for $arch, as a $form$dated${installed:+; installed is $installed}"
}

# package_manager COMMAND ARGUMENT... hands over to the package manager.
package_manager() {
	if [ "$manager" = dnf ]; then # what these two allow is refused by the packages themselves
		export FLEET_ALLOW_DOWNGRADE="${allow_downgrade:-0}" FLEET_ALLOW_SERVER=1 && set -- dnf --assumeyes --quiet "$@"
	else
		# Without ReInstall apt is content with a package that a killed dpkg left half installed.
		set -- env DEBIAN_FRONTEND=noninteractive apt-get -qq --yes -o APT::Get::allow-downgrades="${allow_downgrade:-0}" -o APT::Get::ReInstall=true -o Dpkg::Use-Pty=0 \
			-o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
	fi
	run "$@" || die 13 "$manager failed, see above: fix that, then repeat the command"
}

get_program() {
	setup=$tmp/${name}_${version}_linux_$arch
	verified "${setup##*/}" && chmod 0755 "$setup"
	"$setup" version >/dev/null || die 3 "programs cannot run below $tmp: set TMPDIR to a directory that is not mounted noexec"
}
# from_gateway leaves the gateway's repository here. Other sources may be out of reach.
from_gateway() {
	get_program
	run "$setup" add-repository "$GATEWAY_URL" --ca-hash "$GATEWAY_CA_HASH" --manager "$manager" || exit $?
	if [ "$manager" = dnf ]; then package_manager install "$name-$version" && return; fi
	package_manager update -o Dir::Etc::sourcelist=sources.list.d/fleet-gateway.sources -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0
	package_manager install "$name=$version"
}
# A package must not start a server before it is configured: set_up or a reboot ends the hold.
install_package() {
	if [ "$role" = agent ] && [ -n "$gateway" ]; then from_gateway && return; fi
	package=$tmp/${name}_${version}_$deb.deb
	if [ "$manager" = dnf ]; then package=$tmp/$name-$version-1.$rpm.rpm; fi
	verified "${package##*/}"
	if [ "$role" = server ] && [ -n "$installed" ] && { [ "$manager" = dnf ] || dpkg-query -S "$program" >/dev/null 2>&1; }; then
		# shellcheck disable=SC2046 # a flag or nothing
		run "$program" upgrade --package "$package" $(allows upgrade) && return || exit $?
	fi
	if [ "$role" = server ] && [ -d /run/systemd/system ] && [ -z "$dry_run" ]; then
		hold=/run/systemd/system/$name.service.d && mkdir -p "$hold" && printf '[Unit]\nConditionPathExists=!/run\n' >"$hold/hold.conf"
	fi
	package_manager install "$package"
}
# set_up FLAG... makes the host what the flags say.
set_up() {
	# shellcheck disable=SC2046 # a flag or nothing
	set -- install "$@" $(allows install) ${no_start:+--no-start} ${dry_run:+--dry-run}
	if [ -n "$dry_run" ] && [ ! -x "$setup" ]; then say "would run: $setup $*" && return; fi
	"$setup" "$@" </dev/null || exit $?
}

install_server() {
	if [ -n "$installed" ]; then package=''; fi
	set_up ${package:+--package "$package"} ${data_dir:+--data-dir "$data_dir"} ${tls_san:+--tls-san "$tls_san"} \
		${listen:+--api-listen "$listen:6443" --nats-listen "$listen:4222" --enroll-listen "$listen:8443"}
	if [ -z "$gateway" ] && "$setup" bundle --help >/dev/null 2>&1; then # for its devices
		# shellcheck disable=SC2046 # a flag or nothing
		run "$program" bundle import --release-key "$release_pub" $(allows bundle import) ${ca_file:+--ca-file "$ca_file"} "${bundle:-$mirror/$version}" || exit $?
	fi
	say "a token for a device: fleet-server token create --pre-approve"
}

read_token() {
	if [ -n "$token_file" ]; then token=$(cat "$token_file") || die 2 "--token-file $token_file cannot be read"; fi
	[ -z "$token" ] || [ -n "$server" ] || die 2 "which gateway? use --server https://GATEWAY:8443"
	if [ -n "$token$dry_run" ] || [ -z "$server" ] || [ -e /var/lib/fleet-agent/identity.json ]; then return; fi
	trap 'rm -rf "$tmp"; { stty echo </dev/tty; } 2>/dev/null || true' EXIT
	{ stty -echo </dev/tty; } 2>/dev/null || true
	ask 'Enrollment token (it is not shown):' || die 2 "no enrollment token: set FLEET_TOKEN or use --token-file"
	stty echo </dev/tty && echo >/dev/tty
	token=$answer
}

install_agent() {
	# What an interrupted enrollment left cannot start.
	wait=''
	[ -z "$token" ] || [ -n "$no_start$dry_run" ] || wait=--no-start
	if [ "$form" = static ]; then set_up ${wait:+"$wait"}; fi
	[ -z "$token" ] || [ -n "$dry_run" ] || FLEET_TOKEN=$token "$program" enroll --server "$server" </dev/null ||
		die 14 "the device is not enrolled, see above: fix that, then repeat the command"
	setup=$program && set_up
}

remove() {
	if [ -z "$installed$removed" ]; then
		[ -z "$purge" ] || [ ! -e "/var/lib/$name" ] || die 15 "$name is not installed, but was: install it again to purge /var/lib/$name"
		say "$name is not installed" && return
	fi
	if [ -n "$purge" ] && [ -z "$yes$dry_run" ]; then
		ask "Remove all data of $name${volumes:+, and volumes,} for good? [y/N]" || die 15 "--purge removes all data of $name for good: say --yes"
		case $answer in y | Y | yes) ;; *) die 15 "nothing was removed" ;; esac
	fi
	[ -z "$volumes" ] || export FLEET_PURGE_VOLUMES=yes # for the package's script, where the program is gone
	[ -z "$installed" ] || "$program" uninstall ${purge:+--purge} ${volumes:+--volumes} ${dry_run:+--dry-run} </dev/null || exit $?
	case $form-$manager-$purge in static-*) ;; *-apt-?*) package_manager purge "$name" ;; *) package_manager remove "$name" ;; esac
}

main() {
	parse_flags "$@"
	[ "$(id -u)" = 0 ] || [ -n "$dry_run" ] || die 4 "run it as root, for example with sudo"
	[ -n "$uninstall" ] || detect_host
	detect_install
	if [ -n "$uninstall" ]; then remove && exit 0; fi
	preflight
	if [ "$role" = agent ]; then read_token; fi
	find_release
	setup=$program package=''
	case $form=$installed in *"=$version") ;; static*) get_program ;; *) install_package ;; esac
	"install_$role"
}

main "$@"
