// `npm run bench -- image`: how large debian-k0s is, how long its build takes with the packages at hand, and how long one that has nothing to do.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchOptions } from './dhcp.ts';
import type { Measure, Outcome } from './report.ts';
import { describeMachine } from './site.ts';
import { versionOf } from './start.ts';

const IMAGE = 'debian-k0s';
const SIZE = `what each node fetches of ${IMAGE}`;
const BUILD = 'a build with the packages of an earlier one';
const PHASES = ['packages', 'root', 'initrd', 'squashfs', 'store'] as const;

/** Exported for the test that holds them against targets.json. */
export const MEASURES: readonly Measure[] = [
  { id: 'total', group: SIZE, what: 'kernel, initrd and squashfs', unit: 'MB', better: 'lower', rounds: 'worst' },
  { id: 'kernel', group: SIZE, what: 'the kernel', unit: 'MB', better: 'lower', rounds: 'worst' },
  { id: 'initrd', group: SIZE, what: 'the initrd', unit: 'MB', better: 'lower', rounds: 'worst' },
  { id: 'squashfs', group: SIZE, what: 'the squashfs with its hash tree', unit: 'MB', better: 'lower', rounds: 'worst' },
  { id: 'unpacked', group: SIZE, what: 'files in the squashfs, unpacked', unit: 'MB', better: 'lower', rounds: 'worst' },
  { id: 'build', group: BUILD, what: 'from the command to its end', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'cpu', group: BUILD, what: 'CPU time of all its programs', unit: 'CPU s', better: 'lower', rounds: 'median' },
  ...PHASES.map((phase): Measure => ({ id: `phase-${phase}`, group: BUILD, what: `of it: ${phase}`, unit: 's', better: 'lower', rounds: 'median' })),
  { id: 'locked', group: 'other builds', what: 'one that is bound to its lock', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'unchanged', group: 'other builds', what: 'one that has nothing to do', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'first', group: 'other builds', what: 'the first one, which fetches every package', unit: 's', better: 'lower', rounds: 'worst' },
];

/** What `image build -o json` prints, as far as it is looked at. */
interface Built {
  readonly digest: string;
  readonly unchanged: boolean;
  readonly kernel: { readonly size: number };
  readonly initrds: readonly { readonly size: number }[];
  readonly squashfs: { readonly size: number; readonly digest: string };
  readonly phases: readonly { readonly phase: string; readonly ms: number }[];
}

export async function benchImage({ root, cli, quick, only, say }: BenchOptions): Promise<Outcome> {
  if (only.length > 0) throw new Error('image has rackseed only');
  const rounds = quick ? 1 : 3;
  // A build's directory must be on a disk that has room for a root, which a tmpfs may not have.
  const dir = mkdtempSync(join(process.env['RACKSEED_BENCH_DIR'] ?? '/var/tmp', 'rackseed-bench-'));
  const remove = (): void => rmSync(dir, { recursive: true, force: true });
  process.once('exit', remove);
  try {
    const machine = describeMachine(dir);
    if (machine.loadAtStart > 0.5) say(`bench: the machine is busy (load ${machine.loadAtStart.toFixed(1)}): take no figure of this run for true`);
    const state = join(dir, 'state');
    const samples = new Map<string, number[]>();
    const note = (id: string, value: number): void => void samples.set(id, [...(samples.get(id) ?? []), value]);
    const failures: string[] = [];
    const digests = new Set<string>();
    try {
      say('bench: the first build fetches the packages');
      const first = build(root, cli, state);
      note('first', first.seconds);
      sizes(first.built, state, note);
      digests.add(first.built.digest);
      for (let round = 1; round <= rounds; round++) {
        say(`bench: round ${round} of ${rounds}`);
        const forced = build(root, cli, state, '--force');
        note('build', forced.seconds);
        note('cpu', forced.cpuSeconds);
        for (const { phase, ms } of forced.built.phases) note(`phase-${phase}`, ms / 1000);
        digests.add(forced.built.digest);
        const locked = build(root, cli, state, '--force', '--locked');
        note('locked', locked.seconds);
        digests.add(locked.built.digest);
        for (let time = 0; time < 5; time++) {
          const again = build(root, cli, state);
          if (!again.built.unchanged) throw new Error('a build without any change was made again');
          note('unchanged', again.seconds);
        }
      }
    } catch (error) {
      failures.push(`rackseed: ${error instanceof Error ? error.message : String(error)}`);
      say(`bench: ${failures.at(-1)}`);
    }
    // All of them were built from the same inputs, unless Debian has published something meanwhile.
    if (digests.size > 1) say(`bench: the builds were not alike: ${[...digests].join(', ')}`);
    const how = { quick, rounds, image: IMAGE, digests: [...digests], servers: [{ name: 'rackseed', version: versionOf(process.execPath, [cli, '--version']) }] };
    return { subject: 'image', measures: MEASURES, samples: new Map([['rackseed', samples]]), names: ['rackseed'], notes: new Map(), machine, failures, how };
  } finally {
    process.off('exit', remove);
    remove();
  }
}

function sizes({ kernel, initrds, squashfs }: Built, state: string, note: (id: string, value: number) => void): void {
  const initrd = initrds.reduce((sum, { size }) => sum + size, 0);
  const megabytes = { total: kernel.size + initrd + squashfs.size, kernel: kernel.size, initrd, squashfs: squashfs.size };
  for (const [id, bytes] of Object.entries(megabytes)) note(id, bytes / 1e6);
  const listing = spawnSync('unsquashfs', ['-llnumeric', join(state, 'blobs/sha256', squashfs.digest.slice('sha256:'.length))], { encoding: 'utf8', maxBuffer: 1 << 28 });
  const files = listing.stdout.split('\n').filter((line) => line.startsWith('-')).map((line) => Number(line.split(/\s+/)[2]));
  if (files.length > 0) note('unpacked', files.reduce((sum, size) => sum + size, 0) / 1e6);
}

/** One `rackseed image build`, from its start to its end. An Error with its last line when it fails. */
function build(root: string, cli: string, state: string, ...options: readonly string[]): { readonly built: Built; readonly seconds: number; readonly cpuSeconds: number } {
  // `times` of the shell is the CPU time of all that it waited for, and of what that waited for.
  const script = '"$@" >&3; code=$?; times; exit $code';
  const argv = [process.execPath, cli, 'image', 'build', IMAGE, '--state', state, '-o', 'json', ...options];
  const began = performance.now();
  const { status, stdout, stderr, output, error } = spawnSync('bash', ['-c', script, 'bash', ...argv], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe', 'pipe'], maxBuffer: 1 << 28 });
  const seconds = (performance.now() - began) / 1000;
  if (error) throw error;
  // Its first line is the error, what follows is the hint.
  const lines = stderr.trim().split('\n');
  if (status !== 0) throw new Error(`image build ${options.join(' ')}: exit ${status}: ${lines.find((line) => line.startsWith('rackseed: ')) ?? lines.at(-1)}`);
  const children = stdout.trim().split('\n').at(-1) ?? '';
  const cpuSeconds = [...children.matchAll(/(\d+)m([\d.]+)s/g)].reduce((sum, [, minutes, rest]) => sum + 60 * Number(minutes) + Number(rest), 0);
  return { built: JSON.parse(output[3] ?? '') as Built, seconds, cpuSeconds };
}
