// The peers' initrds: Debian's dracut with livenet, made in a root of its own from the same suite and kernel as the image.
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** network-legacy wants dhclient, arping and pgrep; binutils lets dracut strip what it takes in. */
const PACKAGES = ['linux-image-cloud-amd64', 'dracut', 'dracut-network', 'dracut-live', 'systemd', 'systemd-sysv', 'udev', 'kmod', 'zstd', 'curl', 'ca-certificates', 'iproute2', 'iputils-ping', 'iputils-arping', 'isc-dhcp-client', 'procps', 'plymouth', 'binutils'];
const SUITE = 'trixie';
const SOURCES = [`deb http://deb.debian.org/debian ${SUITE} main`, `deb http://deb.debian.org/debian ${SUITE}-updates main`, `deb http://deb.debian.org/debian-security ${SUITE}-security main`, ''].join('\n');

/**
 * What the seeds have in their image: a unit that fetches a script and runs it. Ours has none, so the initrd puts one into the overlay, before it
 * switches to it: the squashfs stays the same for all.
 */
const HOOK = `#!/bin/sh
cp /etc/resolv.conf "$NEWROOT/etc/resolv.conf" 2>/dev/null
cat >"$NEWROOT/etc/systemd/system/seed.service" <<UNIT
[Unit]
After=network.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'curl -sf --retry 5 http://10.77.0.1:8080/post.sh -o /run/post.sh && sh /run/post.sh'
StandardOutput=journal+console
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$NEWROOT/etc/systemd/system/multi-user.target.wants"
ln -sf ../seed.service "$NEWROOT/etc/systemd/system/multi-user.target.wants/seed.service"
`;

export interface DracutInitrd {
  readonly name: string;
  readonly file: string;
  readonly bytes: number;
  /** How many systemds start, each by its own words: the initrd may have one too. */
  readonly greetings: 1 | 2;
}

export interface Dracut {
  readonly version: string;
  readonly kernelVersion: string;
  /** The stock one first. */
  readonly initrds: readonly DracutInitrd[];
}

const INCLUDE = ['--include', '/tmp/hook.sh', '/usr/lib/dracut/hooks/pre-pivot/99-seed.sh'];
/** `seeds`: everything that dracut takes when it is told to serve any machine. The others: only what this boot needs; the two ways that dracut has for the rest. */
const VARIANTS: readonly (readonly [string, readonly string[]])[] = [
  ['seeds', ['--no-hostonly', '--add', 'livenet dmsquash-live network', ...INCLUDE]],
  ['best-shell', lean('dash base kernel-network-modules network-legacy network url-lib livenet dmsquash-live rootfs-block dm img-lib udev-rules fs-lib shutdown')],
  ['best-systemd', lean('systemd systemd-initrd systemd-journald systemd-networkd systemd-sysctl systemd-tmpfiles systemd-udevd systemd-sysusers systemd-modules-load dracut-systemd dash base network url-lib livenet dmsquash-live rootfs-block dm img-lib udev-rules fs-lib usrmount')],
];

function lean(modules: string): string[] {
  return ['--no-hostonly', '--no-hostonly-cmdline', '--modules', modules, '--drivers', 'virtio_net virtio_pci squashfs overlay loop', '--strip', '--compress', 'zstd -19', ...INCLUDE];
}

/** Made once in `cache`, again when a week old. `say` tells of what takes minutes. Error with the last line of what failed. */
export function dracutInitrds(cache: string, say: (line: string) => void): Dracut {
  const root = join(cache, 'dracut-root');
  if (existsSync(root) && Date.now() - statSync(root).mtimeMs > 7 * 86_400_000) rmSync(root, { recursive: true, force: true });
  if (!existsSync(root)) {
    say('bench: a root with dracut, by mmdebstrap: some minutes');
    mkdirSync(cache, { recursive: true });
    rmSync(`${root}.new`, { recursive: true, force: true });
    writeFileSync(join(cache, 'sources.list'), SOURCES);
    inNamespace(['mmdebstrap', '--mode=root', '--variant=minbase', '--format=directory', `--include=${PACKAGES.join(',')}`, '--aptopt=Apt::Install-Recommends "false"', '--dpkgopt=force-unsafe-io', SUITE, `${root}.new`, join(cache, 'sources.list')]);
    renameSync(`${root}.new`, root);
  }
  writeFileSync(join(root, 'tmp/hook.sh'), HOOK);
  chmodSync(join(root, 'tmp/hook.sh'), 0o755);
  const kernelVersion = readdirSync(join(root, 'usr/lib/modules'))[0]!;
  const initrds = VARIANTS.map(([name, options]): DracutInitrd => {
    const file = join(cache, `initrd-${name}`);
    const mounts = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t sysfs sysfs "$1/sys" && root=$1 && shift && exec chroot "$root" "$@"';
    inNamespace(['sh', '-c', mounts, 'sh', root, 'dracut', '--force', '--kver', kernelVersion, ...options, `/tmp/initrd-${name}`]);
    cpSync(join(root, `tmp/initrd-${name}`), file);
    chmodSync(file, 0o644);
    return { name, file, bytes: statSync(file).size, greetings: name === 'best-shell' ? 1 : 2 };
  });
  const version = spawnSync('chroot', [root, 'dracut', '--version'], { encoding: 'utf8' }).stdout.replace(/^dracut\s*/, '').trim();
  return { version, kernelVersion, initrds };
}

function inNamespace(argv: readonly string[]): void {
  const { status, stdout, stderr, error } = spawnSync('unshare', ['--mount', '--pid', '--fork', '--kill-child', '--', ...argv], { encoding: 'utf8', maxBuffer: 1 << 28 });
  const missing = /'([\w-]+)' (?:cannot be installed|depends on module '[\w-]+', which can't be installed)/.exec(stderr ?? '');
  if (status !== 0 || missing) throw new Error(`${argv[0]}: ${error?.message ?? missing?.[0] ?? `${stdout}${stderr}`.trim().split('\n').at(-1)}`);
}
