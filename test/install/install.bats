#!/usr/bin/env bats
# install.sh on its own: it meets programs and package managers that write down
# what they are told. FLEET_SH is the shell, as in FLEET_SH="busybox sh". The
# real ones are in install_test.go.

script=$BATS_TEST_DIRNAME/../../install.sh
version=1.2.3~rc.1+dev.20270102030405.abc1234

setup() {
	cd "$BATS_TEST_TMPDIR"
	mkdir bin tmp release upper work local
	export TMPDIR=$PWD/tmp log=$PWD/log
	: >log
	shell=${FLEET_SH:-dash}
	if [ "${shell%% *}" = busybox ]; then
		# All its tools, as on Alpine or in a small image.
		busybox --install -s "$PWD/bin"
		rm -f bin/dpkg* bin/rpm* bin/ip bin/unshare bin/mount bin/setsid
	fi
	# Nothing that is on this machine may matter.
	in_setup=1
	for tool in dpkg-query rpm; do stub "$tool" 'exit 1'; done
	in_setup=
	PATH=$PWD/bin:$PATH
	make_release
	export FLEET_PACKAGES=none FLEET_MIRROR=file://$PWD/mirror FLEET_RELEASE_PUB=$PWD/release/release.pub
}

# stub NAME BODY: a program that writes down its arguments. Debian's busybox sh
# prefers its own tools to it, whatever PATH says.
stub() {
	case $shell$1 in busybox*dpkg | busybox*rpm | busybox*df | busybox*od | busybox*uname | busybox*id) [ -n "$in_setup" ] || skip "busybox has its own $1" ;; esac
	rm -f "bin/$1"
	printf '#!/bin/sh\necho "%s $*" >>"$log"\n%s\n' "$1" "${2:-}" >"bin/$1"
	chmod +x "bin/$1"
}

make_release() {
	[ -f key ] || openssl ecparam -genkey -name prime256v1 -noout -out key
	for name in fleet-server fleet-agent; do
		cat >"release/${name}_${version}_linux_amd64" <<'END'
#!/bin/sh
if [ "$1" = version ]; then echo "fleet VERSION (stub)"; exit; fi
if [ "$1 $2" = "bundle --help" ]; then exit "${BUNDLE_STATUS:-1}"; fi
name=$(basename "$0") name=${name%%_*}
echo "$name $*${FLEET_TOKEN:+ TOKEN=$FLEET_TOKEN}" >>"$log"
case ${PROGRAM_STATUS:-0}$* in
[!0]* | *--dry-run*) ;;
0install*) [ -e "/usr/bin/$name" ] || [ "${0%/*}" = /usr/local/bin ] || cp "$0" "/usr/local/bin/$name" ;;
0uninstall*) rm -f "/usr/local/bin/$name" ;;
esac
exit "${PROGRAM_STATUS:-0}"
END
		sed -i "s/VERSION/$version/" "release/${name}_${version}_linux_amd64"
		: >"release/${name}_${version}_amd64.deb"
		: >"release/$name-$version-1.x86_64.rpm"
	done
	chmod +x release/*_linux_*
	echo "$version" >release/version
	printf 'Version: %s\nDate: 2027-01-02T03:04:05Z\nChannels: stable edge\n' "$version" >release/release.txt
	openssl ec -in key -pubout -out release/release.pub 2>/dev/null
	sign
	mkdir -p mirror/stable
	ln -sfn ../release "mirror/$version"
	cp release/version mirror/stable/version
}

sign() {
	(cd release && sha256sum $(ls | grep -v ^checksums) >checksums.txt &&
		openssl dgst -sha256 -sign ../key -out checksums.txt.sig checksums.txt)
}

# as_root COMMAND... in a network of its own, without a terminal, and where
# /usr/bin and /usr/local/bin are this test's: what is installed stays there.
as_root() {
	run setsid unshare --map-root-user --net --mount sh -ec '
		export PATH=/usr/sbin:/usr/bin:/sbin:/bin
		mount -t overlay overlay -o "lowerdir=/usr/bin,upperdir=$1/upper,workdir=$1/work,userxattr" /usr/bin
		mount --bind "$1/local" /usr/local/bin
		[ -e "$1/begun" ] || rm -f /usr/bin/fleet-* # of this machine
		: >"$1/begun"
		PATH=$1/bin:$PATH
		shift
		exec "$@"' sh "$BATS_TEST_TMPDIR" "$@"
	echo "$output"
}

install() { as_root $shell "${installer:-$script}" "$@"; }

# packages_install makes the package manager of a stub install the program.
packages_install() {
	stub "$1" 'case " $* " in
		*" install "*fleet-server*) cp '"$PWD"'/release/fleet-server_*_linux_amd64 /usr/bin/fleet-server ;;
		*" install "*fleet-agent*) cp '"$PWD"'/release/fleet-agent_*_linux_amd64 /usr/bin/fleet-agent ;;
		*" remove "* | *" purge "*) rm -f /usr/bin/fleet-* ;;
	esac'
	if [ "$1" = dnf ]; then stub rpm 'echo '"$version"; else stub dpkg-query 'if [ "$2" = -f ]; then echo "installed '"$version"'"; fi'; fi
}

# expect STATUS [TEXT]
expect() {
	[ "$status" = "$1" ] || { echo "the status is $status, not $1"; return 1; }
	[[ $output == *"${2:-}"* ]] || { echo "it does not say: $2"; return 1; }
}

# did LINE: a program was called so. did_not PATTERN: none was.
did() { grep -qxF -e "$1" log || { echo "not called: $1"; cat log; return 1; }; }
# "! grep" would not do: errexit takes no notice of it, unless it ends the test.
did_not() { if grep -e "$1" log; then return 1; fi; }
did_nothing() { [ ! -s log ] || { cat log; return 1; }; }

# with_key makes a copy of the script that has the key of the release in it.
with_key() {
	from=${installer:-$script}
	{ sed "/^RELEASE_KEY=/,\$d" "$from"; echo "RELEASE_KEY='$(cat release/release.pub)'"; sed "1,/^RELEASE_KEY=/d" "$from"; } >own.sh
	installer=$PWD/own.sh
}

without_openssl() { as_root sh -c 'rm -f /usr/bin/openssl; ! command -v openssl' && expect 0; }

# with_mount DIRECTORY COMMAND ARGUMENT... runs install.sh where the directory is
# a file system of its own, of 1 MiB, and the command was run.
with_mount() {
	dir=$1 before=$2
	shift 2
	as_root sh -ec 'dir=$1; mount -t tmpfs -o size=1m tmpfs "$dir"; eval "$2"; shift 2; exec "$@"' sh "$dir" "$before" $shell "$script" "$@"
}

# gateway makes a copy of the script as a gateway serves it.
gateway() {
	sed "s|^GATEWAY_URL=''|GATEWAY_URL='https://gw:8443'|; s|^GATEWAY_CA_HASH=''|GATEWAY_CA_HASH='abc'|; s|^GATEWAY_PUBKEY_PIN=''|GATEWAY_PUBKEY_PIN='sha256//pin='|" \
		"$script" >served.sh
	installer=$PWD/served.sh
	unset FLEET_MIRROR FLEET_RELEASE_PUB
	# Its mirror, and what it is asked.
	stub curl 'for url; do :; done; while [ $# -gt 0 ]; do if [ "$1" = --output ]; then out=$2; fi; shift; done
		exec cp -p "'"$PWD"'/mirror/${url#https://gw:8443/packages/mirror/}" "$out"'
}

@test "placeholders are there once, alone on their lines" {
	for name in RELEASE_KEY GATEWAY_URL GATEWAY_CA_HASH GATEWAY_PUBKEY_PIN; do
		[ "$(grep -cx "$name=''" "$script")" = 1 ]
	done
	[ "$(wc -l <"$script")" -lt 350 ]
}

@test "half a script does nothing" {
	size=$(wc -c <"$script")
	head -c $((size - 12)) "$script" >half.sh
	installer=$PWD/half.sh
	install --role server
	did_nothing
}

@test "wrong flags" {
	install --role server --nonsense x && expect 2 "unknown flag --nonsense"
	install server && expect 2 "unknown argument server"
	install --role && expect 2 "needs a value"
	install --role master && expect 2 "--role server or --role agent"
	install && expect 2 "--role server or --role agent"
	install --role server --packages yum && expect 2 "apt, dnf or none"
	install --role server --version '1;reboot' && expect 2 "letters, digits"
	install --role agent --token FLT1.secret && expect 2 "FLEET_TOKEN"
	for mirror in mirror.example.com ftp://mirror.example.com mirror.example.com:8443/x; do
		install --role server --mirror "$mirror" && expect 2 "--mirror $mirror: it must begin with https://, http:// or file://"
	done
	for gateway in gw gw:8443 http://gw:8443; do
		install --role agent --server "$gateway" && expect 2 "--server $gateway: it must have the form https://GATEWAY:8443"
	done
	for listen in '10.0.0.1;reboot' 'a b' 'gw/x' 'fe80::1%eth0' 'a,b' '*'; do
		install --role server --listen "$listen" && expect 2 "--listen has letters"
	done
	for listen in 10.0.0.1:6443 gw:6443; do
		install --role server --listen "$listen" && expect 2 "--listen has no port"
	done
	for san in 'gw;reboot' 'a b' 'gw/x' '[fd00::1]' '"gw"'; do
		install --role server --tls-san "$san" && expect 2 "--tls-san has letters"
	done
	did_nothing
}

@test "a switch has no value" {
	install --role server && expect 0
	: >log
	for flag in --purge=no --dry-run=false --uninstall=0 --no-start= --yes=1 --volumes=no; do
		install --role server "$flag" && expect 2 "$flag: this is a switch"
	done
	install --role server --purge2 --yes && expect 2 "unknown flag --purge2"
	did_nothing
	for value in no false 0 ''; do
		export FLEET_PURGE=$value FLEET_UNINSTALL=$value FLEET_DRY_RUN=$value FLEET_NO_START=$value FLEET_YES=$value FLEET_VOLUMES=$value
		: >log
		install --role server && expect 0
		did "fleet-server install"
	done
	install --role server --purge && expect 15 "say --yes"
	for value in 1 yes true on; do
		FLEET_NO_START=$value FLEET_DRY_RUN=$value install --role server && expect 0
		did "fleet-server install --no-start --dry-run"
		: >log
	done
}

@test "help" {
	install --help && expect 0 "--bundle FILE|DIR"
	expect 0 "--volumes"
}

@test "server from a mirror, with all flags" {
	install --role server --data-dir /srv/fleet --tls-san=gw,10.0.0.1 --listen 10.0.0.1 --no-start
	expect 0 "fleet-server $version for amd64, as a static"
	did "fleet-server install --data-dir /srv/fleet --tls-san gw,10.0.0.1 --api-listen 10.0.0.1:6443 --nats-listen 10.0.0.1:4222 --enroll-listen 10.0.0.1:8443 --no-start"
	[ -z "$(ls tmp)" ]
}

@test "server: IPv6, names with wildcards" {
	for listen in fd00::1 '[fd00::1]'; do
		: >log
		install --role server --listen "$listen" --tls-san '*.gw-1.example,my_gw,fd00::1' && expect 0
		did "fleet-server install --tls-san *.gw-1.example,my_gw,fd00::1 --api-listen [fd00::1]:6443 --nats-listen [fd00::1]:4222 --enroll-listen [fd00::1]:8443"
	done
	install --role server --listen localhost && expect 0
	did "fleet-server install --api-listen localhost:6443 --nats-listen localhost:4222 --enroll-listen localhost:8443"
}

@test "variables mirror flags, and flags win" {
	export FLEET_ROLE=server FLEET_DATA_DIR=/srv/a FLEET_TLS_SAN=gw FLEET_NO_START=1
	install --data-dir /srv/b && expect 0
	did "fleet-server install --data-dir /srv/b --tls-san gw --no-start"
}

@test "a version, and a channel" {
	mkdir mirror/edge && echo "$version" >mirror/edge/version && rm -r mirror/stable
	install --role server --version "$version" && expect 0
	install --role server --channel edge && expect 0
	install --role server --channel none && expect 8 "none/version was not downloaded"
	install --role server --version 9.9 && expect 8
	echo '9.9/../../x' >mirror/edge/version
	install --role server --channel edge && expect 8 "names no version"
}

@test "a channel is signed: a mirror cannot offer a release of another one, or nothing that says" {
	install --role server && expect 0 "fleet-server $version for amd64, as a static, made 2027-01-02T03:04:05Z"
	: >log
	mkdir mirror/nightly && cp mirror/stable/version mirror/nightly/version
	install --role server --channel nightly && expect 9 "was not made for the channel nightly"
	sed -i 's/^Channels:.*/Channels: nightly/' release/release.txt
	install --role server && expect 9 "release.txt is damaged or was tampered with"
	sign
	install --role server && expect 9 "was not made for the channel stable"
	for channels in "Channels: unstable" "Channels: " "Channels stable"; do
		sed -i "s/^Channels.*/$channels/" release/release.txt && sign
		install --role server && expect 9 "was not made for the channel stable"
	done
	rm release/release.txt && sign
	install --role server && expect 9 "name the version with --version"
	did_nothing
	install --role server --version "$version" && expect 0
	# A channel that names the directory of another version.
	echo 9.9 >mirror/stable/version && ln -s ../release mirror/9.9
	install --role server && expect 9 "this is version $version, not 9.9"
}

# installed_is VERSION: the program that is installed says so.
installed_is() { printf '#!/bin/sh\necho "fleet %s (stub)"\n' "$1" >local/fleet-server && chmod +x local/fleet-server; }

@test "an older release than the installed one is refused" {
	for newer in 1.2.3 1.2.3~rc.1+dev.20270102030405.abc1235 1.2.3~rc.10 1.10 10; do
		installed_is "$newer"
		for flags in "" "--version $version" "--bundle release" "--dry-run"; do
			install --role server $flags && expect 12 "version $version is older than $newer, which is installed: to go back, say --allow-downgrade"
		done
	done
	did_nothing
	for older in 1.2.2 1.2.3~rc.1 1.2.3~beta 1.2.3~rc.1+dev.20270102030405.abc1233 0.9 dev; do
		installed_is "$older" && : >log
		install --role server && expect 0 "installed is $older"
		did "fleet-server install"
	done
	# The control, with programs that know the flag and with those that do not.
	installed_is 9.9 && : >log
	install --role server --allow-downgrade && expect 0 "installed is 9.9"
	did "fleet-server install"
	sed -i '2i case $* in *--help) echo "  --allow-downgrade"; exit ;; esac' "release/fleet-server_${version}_linux_amd64" && sign
	installed_is 9.9
	export BUNDLE_STATUS=0
	FLEET_ALLOW_DOWNGRADE=1 install --role server && expect 0
	did "fleet-server install --allow-downgrade"
	did "fleet-server bundle import --release-key $FLEET_RELEASE_PUB --allow-downgrade $FLEET_MIRROR/$version"
}

@test "an older package than the installed one is refused" {
	packages_install apt-get
	export FLEET_PACKAGES=apt
	install --role agent && expect 0
	grep -q "^apt-get .*-o APT::Get::allow-downgrades=0 " log
	: >log
	for state in installed unpacked; do
		stub dpkg-query 'if [ "$2" = -f ]; then echo "'$state' 1.2.3"; fi'
		stub dpkg
		install --role agent && expect 12 "older than 1.2.3, which is installed"
	done
	did_not '^apt-get\|^fleet'
	install --role agent --allow-downgrade && expect 0
	grep -q "^apt-get .*-o APT::Get::allow-downgrades=1 .*install" log
	: >log
	gateway
	FLEET_TOKEN=FLT1.secret install && expect 12 "older than 1.2.3, which is installed"
	did_not '^apt-get\|^fleet'
}

@test "bundle: a tar, a directory, and the one that install.sh lies in" {
	unset FLEET_MIRROR
	(cd release && tar -cf ../bundle.tar *)
	install --role server --bundle bundle.tar && expect 0
	install --role server --bundle release && expect 0
	cp "$script" release/install.sh
	installer=$PWD/release/install.sh
	install --role server && expect 0
	[ "$(grep -c '^fleet-server install' log)" = 3 ]
	installer=$script
	install --role server && expect 2 "--mirror URL or --bundle FILE"
	install --role server --bundle nowhere.tar && expect 8 "nowhere.tar does not exist"
	echo text >text.tar
	install --role server --bundle text.tar && expect 8 "is it a release?"
}

@test "a server serves the release that it came from" {
	export BUNDLE_STATUS=0
	install --role server --ca-file ca.pem && expect 0
	did "fleet-server bundle import --release-key $FLEET_RELEASE_PUB --ca-file ca.pem $FLEET_MIRROR/$version"
	unset FLEET_MIRROR
	install --role server --bundle release && expect 0
	did "fleet-server bundle import --release-key $FLEET_RELEASE_PUB release"
}

@test "signature: another key, none, no openssl" {
	openssl ecparam -genkey -name prime256v1 -noout -out other
	openssl ec -in other -pubout -out other.pub 2>/dev/null
	install --role server --release-pub other.pub && expect 9 "not signed by the key"
	unset FLEET_RELEASE_PUB
	install --role server && expect 9 "--release-pub"
	with_key
	install --role server && expect 0
	: >log
	echo x >>release/checksums.txt
	install --role server && expect 9 "not signed by the key"
	did_nothing
	without_openssl
	install --role server && expect 9 "openssl is missing"
	did_nothing
}

@test "tampered file, missing file, other version" {
	echo x >>"release/fleet-server_${version}_linux_amd64"
	install --role server && expect 9 "tampered with"
	did_nothing
	rm release/fleet-server_*_linux_amd64 && sign
	install --role server && expect 9 "made for this architecture"
	echo 9.9 >release/version && sign
	install --role server --version "$version" && expect 9 "this is version 9.9"
}

# evil makes the file of the release that $1 names in a bundle something else; it
# holds what the release has, for as long as nobody changes it.
evil() {
	rm -rf odd && cp -r release odd
	mv "odd/$1" ./its.content && chmod 755 its.content
	case $2 in
	symlink) ln -s "$PWD/its.content" "odd/$1" ;;
	hardlink) ln its.content "odd/aaa" && ln its.content "odd/$1" ;;
	fifo) mkfifo "odd/$1" ;;
	directory) mkdir "odd/$1" ;;
	esac
	(cd odd && tar -cf ../odd.tar $(ls | sort))
}

@test "bundle: nothing but regular files" {
	unset FLEET_MIRROR
	for file in version checksums.txt "fleet-server_${version}_linux_amd64"; do
		for kind in symlink hardlink fifo directory; do
			evil "$file" "$kind"
			install --role server --bundle odd.tar
			[ "$status" = 8 ] || [ "$status" = 9 ]
			[ "$kind" = hardlink ] && continue # in a directory that is a regular file
			install --role server --bundle odd
			expect 8 "no regular file"
		done
		did_nothing
	done
	(cd release && tar -cf ../bundle.tar *) # the control
	install --role server --bundle bundle.tar && expect 0
	did "fleet-server install"
}

@test "bundle: what is verified is what runs" {
	unset FLEET_MIRROR
	(cd release && tar -cf ../bundle.tar *)
	evil "fleet-server_${version}_linux_amd64" symlink
	rm its.content && ln -s "$PWD/release/fleet-server_${version}_linux_amd64" its.content
	# Whoever owns the bundle changes it as soon as it was verified.
	stub sha256sum
	cat >bin/sha256sum <<'END'
#!/bin/sh
/usr/bin/sha256sum
printf '#!/bin/sh\necho evil >>"$log"\n' >evil.sh && chmod +x evil.sh
for program in release/*linux*; do cp evil.sh "$program"; done
END
	for bundle in bundle.tar release odd.tar; do
		rm -f local/* && mv bin/sha256sum . && make_release && mv sha256sum bin
		install --role server --bundle "$bundle"
		did_not evil
		case $bundle in
		odd.tar) expect 8 "no regular file" ;;
		release) expect 9 "tampered with" || expect 0 ;; # it changed before the program was copied
		*) expect 0 ;;
		esac
	done
}

@test "bundle: the clock of before the release" {
	unset FLEET_MIRROR
	touch -t 209901010000 release/checksums.txt
	(cd release && tar -cf ../bundle.tar *)
	for bundle in bundle.tar release; do install --role server --bundle "$bundle" && expect 7 "set it"; done
	did_nothing
}

@test "bundle and mirror: nothing large before the signature is verified" {
	stub openssl 'cat $(find "$TMPDIR" -type f) | wc -c >>"$log.sizes"; exec /usr/bin/openssl "$@"'
	for file in version checksums.txt checksums.txt.sig; do
		rm -rf large && cp -r release large
		truncate -s 2G "large/$file"
		(cd large && /usr/bin/tar --sparse -cf ../large.tar *)
		[ "$(stat -c %s large.tar)" -lt 1000000 ]
		for source in "--bundle large.tar" "--bundle large" "--mirror file://$PWD/large-mirror --version $version"; do
			mkdir -p large-mirror && ln -sfn ../large "large-mirror/$version"
			with_mount "$TMPDIR" "mount -o remount,size=400m $TMPDIR" --role server ${source}
			[ "$status" = 8 ] || [ "$status" = 9 ]
		done
	done
	did_not ^fleet
	unset FLEET_MIRROR
	install --role server --bundle release && expect 0 # the control
	[ "$(sort -n log.sizes | tail -n 1)" -lt 4000000 ]
}

@test "bundle: a name of 6 GiB" {
	unset FLEET_MIRROR
	{
		printf '././@LongLink' && head -c 87 /dev/zero && printf '0000644\0000000000\0000000000\000\200\0\0\0\0\0\0\1\200\0\0\00000000000000\000007342\0 L'
		head -c 100 /dev/zero && printf 'ustar  ' && head -c 248 /dev/zero
	} >odd.tar
	[ "$(stat -c %s odd.tar)" = 512 ] && truncate -s 6442452992 odd.tar
	stub tar 'ulimit -v >>"$log.limits"; exec /usr/bin/tar "$@"'
	install --role server --bundle odd.tar
	expect 8 "no regular file"
	case $shell in busybox*) return ;; esac # has its own tar, which no stub replaces
	[ "$(sort -u log.limits)" = 1048576 ]
}

@test "TMPDIR of another account" {
	[ "$(id -u)" = 0 ] || skip "needs root to give a directory away"
	mkdir -p other/mine writable sticky theirs
	chown 12345 other theirs && chmod 777 writable && chmod 1777 sticky && chmod 1777 theirs
	as_them() { run env TMPDIR="$1" PATH="$PATH" $shell "$script" --role agent --dry-run; echo "$output"; }
	stub id 'echo 0'
	for dir in other other/mine writable theirs nowhere; do as_them "$PWD/$dir" && expect 2 "unset TMPDIR"; done
	for dir in tmp sticky; do as_them "$PWD/$dir" && expect 0; done # the control
}

@test "exit statuses of the program are handed on" {
	for s in 10 11 12; do
		PROGRAM_STATUS=$s install --role server
		expect "$s"
	done
}

@test "busy port" {
	busy_port() {
		as_root sh -c "
			/usr/sbin/ip link set lo up
			busybox nc -l -p 4222 & p=\$!
			until grep -q :107E /proc/net/tcp /proc/net/tcp6; do :; done
			$shell $script $*; s=\$?
			kill \$p
			exit \$s"
	}
	busy_port --role server && expect 5 "port 4222 is used by busybox ("
	busy_port --role server --uninstall && expect 0 "not installed"
	did_nothing
}

@test "full disk" {
	with_mount "$TMPDIR" : --role server && expect 6 "$TMPDIR has 1 MiB left and needs 350"
	mkdir data
	with_mount "$PWD/data" : --role server --data-dir "$PWD/data/not/there" && expect 6 "$PWD/data has 1 MiB left and needs 350"
	did_nothing
	install --role server && expect 0
	with_mount "$TMPDIR" : --role server --uninstall && expect 0
	did "fleet-server uninstall"
	install --role server && expect 0
	with_mount "$TMPDIR" : --role server --purge --yes && expect 0
	did "fleet-server uninstall --purge"
}

@test "an agent and another init than systemd" {
	stub curl 'exit 60'
	for init in openrc runit; do
		with_mount /run "mkdir /run/$init" --role agent && expect 3 "the agent needs systemd"
		with_mount /run "mkdir /run/$init" --role agent --dry-run && expect 3 "To report:"
	done
	did_nothing
	rm bin/curl
	with_mount /run "mkdir /run/openrc" --role agent --uninstall && expect 0 "not installed"
	with_mount /run "mkdir /run/runit" --role server && expect 0
	did "fleet-server install"
	with_mount /run "mkdir -p /run/systemd/system /run/openrc" --role agent && expect 0
	did "fleet-agent install"
	: >log
	with_mount /run : --role agent && expect 0
	did "fleet-agent install"
}

@test "clock of before the release" {
	touch -t 209901010000 release/checksums.txt
	install --role server && expect 7 "set it"
	did_nothing
}

@test "architectures" {
	for a in '183 arm64' '40 arm'; do
		stub od "case \$* in *-j18*) echo ' ${a% *}' ;; *) echo ' 4' ;; esac"
		stub uname 'case $1 in -s) echo Linux ;; *) echo aarch64 ;; esac'
		install --role server && expect 9 "no fleet-server_${version}_linux_${a#* }:"
	done
	stub od "case \$* in *-j18*) echo ' 40' ;; *) echo ' 2' ;; esac"
	install --role server && expect 3 "To report:"
	stub od 'echo " 243"'
	install --role server && expect 3 "no fleet for this architecture"
	stub uname 'echo FreeBSD'
	install --role server && expect 3 "fleet runs on Linux"
}

@test "not root" {
	[ "$(id -u)" = 0 ] || skip "needs root to become nobody"
	chmod -R a+rX "$BATS_TEST_TMPDIR" && chmod a+x "$BATS_TEST_TMPDIR"/..
	stub id 'echo 1000'
	install --role server && expect 4 "as root"
	install --role server --uninstall && expect 4 "as root"
}

@test "agent: the token is in the environment of enroll, and nowhere else" {
	FLEET_TOKEN=FLT1.secret install --role agent --server https://gw:8443 && expect 0
	did "fleet-agent enroll --server https://gw:8443 TOKEN=FLT1.secret"
	[ "$(grep -c secret log)" = 1 ]
	[[ $output != *secret* ]]
	# What an interrupted enrollment left cannot start before.
	[ "$(grep '^fleet-agent [ei]' log | cut -d ' ' -f 2-3 | paste -s -d ,)" = "install --no-start,enroll --server,install" ]
	: >log
	echo FLT1.other >token
	install --role agent --server https://gw:8443 --token-file token && expect 0
	did "fleet-agent enroll --server https://gw:8443 TOKEN=FLT1.other"
	install --role agent --server https://gw:8443 --token-file nowhere && expect 2 "cannot be read"
}

@test "agent: enrollment fails" {
	stub_agent=release/fleet-agent_${version}_linux_amd64
	sed -i 's/^exit/if [ "$1" = enroll ]; then exit 1; fi\nexit/' "$stub_agent" && sign
	FLEET_TOKEN=FLT1.secret install --role agent --server https://gw:8443
	expect 14 "is not enrolled"
}

@test "agent: no token, no terminal" {
	install --role agent --server https://gw:8443 && expect 2 "FLEET_TOKEN"
	FLEET_TOKEN=FLT1.secret install --role agent && expect 2 "which gateway"
	did_nothing
}

@test "a server through apt: held until it is configured, upgraded by the program, removed" {
	packages_install apt-get
	stub systemctl
	export FLEET_PACKAGES=apt
	install --role server --tls-san gw && expect 0 "as a package"
	grep -q "^apt-get .*install $TMPDIR/fleet-install.*/fleet-server_${version}_amd64.deb\$" log
	grep -q "^apt-get .*-o DPkg::Lock::Timeout=300 .*install" log
	grep -q "^fleet-server install --package $TMPDIR/.*/fleet-server_${version}_amd64.deb --tls-san gw\$" log
	: >log
	install --role server && expect 0 "installed is $version"
	did "fleet-server install"
	did_not ^apt-get
	stub dpkg-query 'if [ "$2" = -f ]; then echo "installed 1.0"; fi'
	: >log
	install --role server && expect 0 "installed is 1.0"
	grep -q "^fleet-server upgrade --package $TMPDIR/.*.deb\$" log
	did "fleet-server install"
	PROGRAM_STATUS=11 install --role server && expect 11
	FLEET_PACKAGES=none install --role server && expect 12 "is there, as from a package"
	install --role server --uninstall --yes --purge && expect 0
	did "fleet-server uninstall --purge"
	grep -q "^apt-get .*purge fleet-server\$" log
}

@test "an interrupted dpkg is finished" {
	packages_install apt-get
	export FLEET_PACKAGES=apt
	install --role agent && expect 0
	stub dpkg
	stub dpkg-query 'if [ "$2" = -f ]; then echo "half-configured '"$version"'"; fi'
	install --role agent && expect 0
	did "dpkg --force-confdef --force-confold --configure -a"
}

@test "an agent through dnf" {
	packages_install dnf
	export FLEET_PACKAGES=dnf
	install --role agent && expect 0
	grep -q "^dnf --assumeyes --quiet install $TMPDIR/fleet-install.*/fleet-agent-$version-1.x86_64.rpm\$" log
	install --role agent --uninstall && expect 0
	did "dnf --assumeyes --quiet remove fleet-agent"
	stub dnf 'exit 1'
	install --role agent && expect 13 "dnf failed"
}

@test "a program that rpm does not know" {
	packages_install dnf
	export FLEET_PACKAGES=dnf
	install --role agent && expect 0
	stub rpm 'echo "package fleet-agent is not installed"; exit 1'
	: >log
	install --role agent --uninstall && expect 0 "not installed"
	did_not '^dnf\|^fleet'
	install --role agent && expect 0 "as a package"
	[[ $output != *"installed is"* ]]
	grep -q "^dnf .*install .*fleet-agent-$version" log
}

@test "the package manager is found" {
	unset FLEET_PACKAGES
	packages_install apt-get && packages_install dnf
	stub dpkg-query 'exit 1'
	install --role agent && grep -q ^dnf log
	rm upper/fleet-agent
	stub dpkg-query 'if [ "$2" = -f ]; then echo "installed x"; fi'
	install --role agent && grep -q ^apt-get log
}

@test "dry run" {
	packages_install apt-get
	stub systemctl
	FLEET_PACKAGES=apt install --role server --dry-run --tls-san gw
	expect 0 "would run: env DEBIAN_FRONTEND=noninteractive apt-get"
	expect 0 "would run: /usr/bin/fleet-server install"
	did_not '^apt-get\|^systemctl'
	FLEET_TOKEN=t install --role agent --server https://gw:8443 --dry-run
	expect 0
	did "fleet-agent install --dry-run"
	did_not enroll
	[ -z "$(find local upper -name 'fleet*' -type f)" ]
}

@test "without a package: upgrade, second run, uninstall" {
	install --role server && expect 0
	: >log
	install --role server --tls-san gw && expect 0 "installed is $version"
	did "fleet-server install --tls-san gw"
	sed -i "s/^if .*version.*/if [ \"\$1\" = version ]; then echo 'fleet 1.0 (stub)'; exit; fi/" local/fleet-server
	: >log
	install --role server && expect 0 "installed is 1.0"
	grep -q "VERSION\|$version" local/fleet-server
	install --role server --uninstall --dry-run && expect 0
	did "fleet-server uninstall --dry-run"
	PROGRAM_STATUS=1 install --role server --uninstall && expect 1
	install --role server --purge && expect 15 "say --yes"
	install --role server --purge --yes && expect 0
	did "fleet-server uninstall --purge"
}

@test "served by a gateway: the agent through apt" {
	gateway
	packages_install apt-get
	FLEET_PACKAGES=apt FLEET_TOKEN=FLT1.secret install && expect 0
	did "fleet-agent add-repository https://gw:8443 --ca-hash abc --manager apt"
	grep -q "^apt-get .*update -o Dir::Etc::sourcelist=sources.list.d/fleet-gateway.sources" log
	grep -q "^apt-get .*install fleet-agent=$version\$" log
	did "fleet-agent enroll --server https://gw:8443 TOKEN=FLT1.secret"
	[ "$(grep -c '^curl .*--insecure --pinnedpubkey sha256//pin=' log)" = "$(grep -c ^curl log)" ]
}

@test "served by a gateway: dnf, none, and a bundle" {
	gateway
	packages_install dnf
	export FLEET_TOKEN=FLT1.secret
	FLEET_PACKAGES=dnf install && expect 0
	did "dnf --assumeyes --quiet install fleet-agent-$version"
	rm upper/fleet-agent && mknod upper/fleet-agent c 0 0 2>/dev/null || true
	FLEET_PACKAGES=none install && expect 0 "as a static"
	did "fleet-agent install"
	: >log
	FLEET_RELEASE_PUB=$PWD/release/release.pub install --bundle release && expect 0
	did_not ^curl
}

@test "served by a gateway: the key of the release, and no openssl" {
	gateway
	export FLEET_TOKEN=FLT1.secret
	openssl ecparam -genkey -name prime256v1 -noout -out other
	openssl ec -in other -pubout -out other.pub 2>/dev/null
	install --release-pub other.pub && expect 9 "not signed by the key"
	without_openssl
	: >log
	install --release-pub release/release.pub && expect 9 "openssl is missing"
	FLEET_RELEASE_PUB=other.pub install && expect 9 "openssl is missing"
	with_key
	install --release-pub release/release.pub && expect 9 "openssl is missing"
	did_not ^fleet
	install && expect 0
}

@test "a mirror with a CA of its own" {
	stub curl 'exit 60'
	install --role server --ca-file /etc/ca.pem
	expect 8 "check address, proxy, CA and clock"
	grep -q "^curl .*--cacert /etc/ca.pem" log
}

@test "uninstall" {
	install --role server --uninstall && expect 0 "not installed"
	install --role agent --purge && expect 0 "not installed"
	did_nothing
}

@test "purge after uninstall" {
	as_root sh -c "mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/fleet-agent && $shell $script --role agent --purge --yes"
	expect 15 "install it again to purge /var/lib/fleet-agent"
	did_nothing
	stub apt-get
	stub dpkg-query # which knows of its configuration
	export FLEET_PACKAGES=apt
	install --role agent --uninstall && expect 0 "not installed"
	install --role agent --purge && expect 15 "say --yes"
	did_not ^apt-get
	install --role agent --purge --yes && expect 0
	grep -q "^apt-get .*purge fleet-agent\$" log
	stub apt-get 'echo "volumes: ${FLEET_PURGE_VOLUMES:-no}" >>"$log"'
	install --role agent --purge --yes && expect 0
	did "volumes: no"
	install --role agent --purge --volumes --yes && expect 0
	did "volumes: yes"
}

@test "purge with volumes" {
	install --role agent && expect 0
	: >log
	for flags in "--role agent" "--role agent --uninstall" "--role server --purge --yes" "--role server"; do
		install $flags --volumes && expect 2 "--volumes goes with"
		FLEET_VOLUMES=1 install $flags && expect 2 "--volumes goes with"
	done
	did_nothing
	install --role agent --purge --volumes --dry-run && expect 0
	did "fleet-agent uninstall --purge --volumes --dry-run"
	install --role agent --purge --volumes && expect 15 "say --yes"
	FLEET_VOLUMES=1 FLEET_PURGE=yes install --role agent --yes && expect 0
	did "fleet-agent uninstall --purge --volumes"
	install --role agent && install --role agent --purge --yes && expect 0
	did "fleet-agent uninstall --purge"
}

@test "messages steer no terminal" {
	run $shell "$script" "$(printf 'bad\033[2J\302\2331m\177\033]0;x\007')"
	[ "$status" = 2 ]
	[[ $output == *"unknown argument bad?[2J??1m??]0;x?"* ]]
	run $shell "$script" 'bad\033[2J'
	[[ $output == *'unknown argument bad\033[2J'* ]]
}
