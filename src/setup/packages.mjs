// Which Debian packages each command needs, which of them are missing, and how they get there.
import { spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { longStep, say, SetupError } from './say.mjs';

/** better-sqlite3 compiles where no prebuilt binary can be fetched; Node's headers are found by build.mjs. */
const BUILD = ['python3', 'make', 'g++'];
/** The daemon: loaders, and git for the post-boot repositories. */
const SERVE = ['ca-certificates', 'git', 'ipxe'];
/** The lab: namespaces, a VM, the router advertisement, and the image builder. */
const LAB = [
  ...SERVE,
  'cryptsetup-bin', 'dnsmasq-base', 'iproute2', 'ipxe-qemu', 'mmdebstrap', 'ovmf', 'qemu-system-x86', 'squashfs-tools', 'uidmap', 'util-linux', 'xz-utils', 'zstd',
];
/** Real peers for the integration tests. Debian starts Kea and ISC dhcpd when it installs them: Kea's configuration lists no card, dhcpd has none and stops by itself. The two busyboxes exclude each other: either will do. */
const TEST = [
  ...LAB, 'atftp', 'busybox-static|busybox', 'cpio', 'curl', 'dhcpcd-base', 'efitools', 'gcc', 'isc-dhcp-client', 'isc-dhcp-relay', 'isc-dhcp-server', 'kea-dhcp4-server', 'libc6-dev', 'minisign', 'mount', 'mtools',
  'nftables', 'openssh-client', 'openssl', 'python3', 'sbsigntool', 'strace', 'systemd', 'systemd-boot-efi', 'tcpdump', 'tftp-hpa', 'udhcpc', 'xorriso',
];
/** Peers to measure against, a compiler for the generator. kea-dhcp4-server starts a service, which listens nowhere until somebody configures it. */
const BENCH = [...SERVE, 'curl', 'dnsmasq-base', 'gcc', 'iproute2', 'kea-admin', 'kea-dhcp4-server', 'libc6-dev', 'nftables', 'util-linux'];
/** Peers that are unpacked, not installed (unpacked.mjs): Debian would start nginx on port 80 and tftpd-hpa on 69, in the way of rackseed's own, and tftpd-hpa and atftpd exclude each other. */
const NGINX = { name: 'nginx', program: 'nginx' };
const UNPACKED = { test: [NGINX], bench: [NGINX, { name: 'tftpd-hpa', program: 'in.tftpd' }, { name: 'atftpd', program: 'atftpd' }] };

/** `subject` is that of a benchmark: two of them build the image and boot it. */
export function packagesFor(command, withBuildTools, subject) {
  const lab = subject === 'boot' || subject === 'image';
  const wanted = command === 'serve' ? SERVE : command === 'lab' ? LAB : command === 'bench' ? [...BENCH, ...(lab ? LAB : [])] : TEST;
  return [...new Set([...wanted, ...(withBuildTools ? BUILD : [])])].sort();
}

/** What `command` wants unpacked: packages, each with its program in usr/sbin. */
export function unpackedFor(command) {
  return UNPACKED[command] ?? [];
}

/** Those of `wanted` that dpkg does not list as installed; of `a|b`, a when neither is there. `listing` is the output of DPKG_QUERY. */
export function missingFrom(wanted, listing) {
  const installed = new Set(listing.split('\n').flatMap((line) => (line.endsWith(' installed') ? [line.split(' ')[0]] : [])));
  return wanted.filter((entry) => !entry.split('|').some((name) => installed.has(name))).map((entry) => entry.split('|')[0]);
}

const DPKG_QUERY = ['dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\\n'];

/** Those of `wanted` that are not installed here; a SetupError where there is no dpkg. */
export function notInstalled(wanted) {
  const [program, ...args] = DPKG_QUERY;
  // Without a name it would list all.
  if (wanted.length === 0) return [];
  const query = spawnSync(program, [...args, ...wanted.flatMap((entry) => entry.split('|'))], { encoding: 'utf8' });
  if (query.error) throw new SetupError(`this is no Debian (${program}: ${query.error.code}); needed are: ${missingFrom(wanted, '').join(' ')}`, 69);
  return missingFrom(wanted, query.stdout);
}

/** What to do about missing packages; pure, so that the table can be tested. */
export function howToInstall({ ci, yes, terminal, root, sudo }) {
  if (!root && !sudo) return 'refuse';
  if (ci || yes) return 'install';
  if (terminal) return 'ask';
  return root ? 'install' : 'refuse';
}

/** Installs what is missing, after asking when there is somebody to ask; a SetupError with the apt line otherwise. */
export async function ensurePackages(wanted, { yes, command }) {
  const missing = notInstalled(wanted);
  if (missing.length === 0) return;
  const root = process.getuid?.() === 0;
  const sudo = !root && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0;
  const line = `${root ? '' : 'sudo '}apt-get install --no-install-recommends ${missing.join(' ')}`;
  say(`${command} needs Debian packages that are not installed:\n  ${line}`);
  const how = howToInstall({ ci: process.env.CI === 'true', yes, terminal: Boolean(process.stdin.isTTY && process.stderr.isTTY), root, sudo });
  if (how === 'refuse' || (how === 'ask' && !(await askYesNo('Install them now? [y/N] ')))) {
    throw new SetupError('install them with the line above, then run this again', 69);
  }
  const apt = (...words) => [...(root ? [] : ['sudo', '-n']), 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-qq', ...words];
  await longStep('apt-get update', apt('update'), { mayFail: true });
  await longStep(`apt-get install of ${missing.length} packages`, apt('install', '-y', '--no-install-recommends', '-o', 'Dpkg::Use-Pty=0', ...missing), { exit: 69 });
}

function askYesNo(question) {
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  return new Promise((resolve) => {
    lines.once('close', () => resolve(false));
    lines.question(question, (answer) => {
      resolve(/^y(es)?$/i.test(answer.trim()));
      lines.close();
    });
  });
}
