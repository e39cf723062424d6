// The last work on a root, by its own programs: users, owners, services; then everything out that belongs to one machine or one build.
import { COPYRIGHTS } from './base-debian.ts';
import { quote } from './rootfs.ts';
import { isSystemdUnit } from './spec-schema.ts';
import type { ArchSpec } from './spec.ts';

/** What runs as root once the files are in: a POSIX shell script whose first argument is the root. */
export function finishScript(spec: ArchSpec): string {
  const lines = [START, ...users(spec)];
  for (const file of spec.files) if (file.owner !== 'root:root') lines.push(`in_root chown -h ${quote(file.owner)} ${quote(file.path)}`);
  lines.push(...services(spec), 'cd "$root"');
  if (spec.exclude.length > 0) {
    // find's -path and dpkg's path-exclude read patterns alike: * matches slashes too.
    const matching = spec.exclude.map((path) => `-path ${quote(`.${path}`)}`).join(' -o ');
    lines.push(`find . -xdev -depth \\( ${matching} \\) ! -path ${quote(`.${COPYRIGHTS}`)} \\( ! -type d -o -empty \\) -delete`);
  }
  return [...lines, CLEAN, ...belongings(), ...mountPoints(spec), ''].join('\n');
}

/** `need` and `has`: what the root has of its own. A root of somebody else's must not lead what is done here out of it, onto the machine that builds. */
const START = `set -eu
root=$1
[ -d "$root/usr" ]
in_root() { chroot "$root" "$@" </dev/null; }
has() { for dir in usr/sbin usr/bin sbin bin; do [ -x "$root/$dir/$1" ] || [ -L "$root/$dir/$1" ] && return; done; return 1; }
fail() { echo "$*"; exit 1; }
for dir in boot dev etc etc/apt etc/dpkg etc/ssh proc run sys tmp usr usr/lib var var/cache var/lib var/lib/systemd var/log var/tmp; do
  [ ! -L "$root/$dir" ] || fail "/$dir is a link in this image, and must be a directory"
done`;

/**
 * --system: no aging, no range of subordinate ids, no complaint about an id below 1000. Where there is no useradd, as in Alpine, BusyBox's does.
 */
function users(spec: ArchSpec): string[] {
  if (spec.users.length === 0) return [];
  const each = (make: (user: ArchSpec['users'][number], gid: number, home: string) => string[]): string[] => spec.users.flatMap((user) => make(user, user.gid ?? user.uid, quote(user.home ?? '/nonexistent')));
  return [
    'if has useradd && has groupadd; then',
    ...each(({ name, uid, shell }, gid, home) => [`in_root groupadd --system --gid ${gid} ${quote(name)}`, `in_root useradd --system --no-create-home --uid ${uid} --gid ${gid} --home-dir ${home} --shell ${quote(shell ?? '/usr/sbin/nologin')} ${quote(name)}`]),
    'elif has adduser && has addgroup; then',
    ...each(({ name, uid, shell }, gid, home) => [`in_root addgroup -S -g ${gid} ${quote(name)}`, `in_root adduser -S -D -H -u ${uid} -G ${quote(name)} -h ${home} -s ${quote(shell ?? '/sbin/nologin')} ${quote(name)}`]),
    'else',
    'fail "users: the image has neither useradd nor adduser"',
    'fi',
  ];
}

/** Names with a type are systemd's, the others OpenRC's. */
function services({ services: { enable, disable, mask } }: ArchSpec): string[] {
  const lines: string[] = [];
  for (const [verb, names] of [['disable', disable], ['mask', mask], ['enable', enable]] as const) {
    const [units, others] = [names.filter(isSystemdUnit), names.filter((name) => !isSystemdUnit(name))];
    if (units.length > 0) lines.push(`has systemctl || fail "services: ${units[0]}: the image has no systemctl"`, `in_root systemctl --quiet ${verb} ${units.map(quote).join(' ')}`);
    if (others.length === 0) continue;
    lines.push(`has rc-update || fail "services: ${others[0]}: the image has no rc-update; a unit of systemd has its type in its name"`);
    if (verb === 'mask') lines.push(`fail "services: ${others[0]}: OpenRC cannot mask a service, only disable it"`);
    for (const name of others) lines.push(verb === 'enable' ? `in_root rc-update --quiet add ${quote(name)} default` : `in_root rc-update --quiet --all del ${quote(name)}`);
  }
  return lines;
}

/** docs: TRAPS 5. A machine's identity and a build's traces go; the mount points and /boot/config-* (k0s looks at it) stay. */
const CLEAN = `mkdir -p boot dev proc run sys tmp var/cache var/lib var/log var/tmp
find dev proc run sys tmp var/tmp -xdev -mindepth 1 -delete
[ ! -d var/lib/apt/lists ] || find var/lib/apt/lists -xdev ! -type d -delete
find var/log var/cache -xdev ! -type d -delete
rm -f etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/apt/apt.conf.d/99mmdebstrap etc/hostname etc/resolv.conf etc/.pwd.lock
rm -f etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/subuid- etc/subgid- etc/ssh/ssh_host_* .dockerenv
rm -f var/lib/systemd/random-seed var/lib/systemd/credential.secret var/lib/dbus/machine-id var/lib/dpkg/*-old var/lib/dpkg/lock*
rm -f vmlinuz vmlinuz.old initrd.img initrd.img.old boot/vmlinuz-* boot/initrd.img-* boot/initramfs-* boot/System.map-*
rm -f etc/machine-id
: > etc/machine-id
chmod 0444 etc/machine-id
chmod 1777 tmp var/tmp`;

/**
 * What is the image's and stands in /var: a node that keeps its /var over images would else have the package list of the image that it saw first.
 * It moves below /usr, and links stand in its place.
 */
const OF_THE_IMAGE = [
  ...['apt', 'dpkg', 'emacsen-common', 'initramfs-tools', 'man-db', 'pam', 'python', 'sgml-base', 'shells.state', 'ucf', 'usbutils', 'vim', 'xml-core'],
  ...['systemd/catalog', 'systemd/deb-systemd-helper-enabled', 'systemd/deb-systemd-helper-masked', 'systemd/deb-systemd-user-helper-enabled'],
];
export const BELONGINGS = '/usr/lib/rackseed/var';

function belongings(): string[] {
  return [
    `for name in ${OF_THE_IMAGE.join(' ')}; do`,
    '  [ -e "var/lib/$name" ] && [ ! -L "var/lib/$name" ] || continue',
    `  place=.${BELONGINGS}/lib/$name`,
    '  mkdir -p "${place%/*}"',
    '  rm -rf "$place"',
    '  mv "var/lib/$name" "$place"',
    '  up=../..',
    '  case $name in */*) up=../../.. ;; esac',
    `  ln -s "$up${BELONGINGS}/lib/$name" "var/lib/$name"`,
    'done',
  ];
}

/** What the initrd stage mounts on. A link there would take the mount elsewhere. */
function mountPoints({ layout }: ArchSpec): string[] {
  return [...layout.readonly, ...layout.persist, layout.config].flatMap((path) => {
    const at = quote(`.${path}`);
    return [`[ ! -L ${at} ] || fail "layout: ${path} is a link in this image, and must be a directory"`, `mkdir -p ${at}`];
  });
}
