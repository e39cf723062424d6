#!/usr/bin/env node
// The command line: argv -> one command of commands/; the only file that exits.
import { Command, CommanderError, Option } from 'commander';
import { readFileSync } from 'node:fs';
import { AppError, FaultsError, formatFault, lineOf } from './errors.ts';
import { SHIPPED } from './shipped.ts';
import type { LabCommandOptions } from './commands/lab.ts';
import { FORMATS, parseFormat, type Format } from './commands/output.ts';

const EXIT_CODES = `
Exit codes: 0 done · 1 failed · 64 the command line was not understood · 65 YAML or other input has faults · 66 no such node, image, boot ·
69 something needed is not there (package, daemon, port) · 70 a bug of rackseed · 75 try again later · 78 no usable rackseed.yaml`;

interface Global {
  readonly config?: string;
  readonly url?: string;
}

function program(): Command {
  const { version } = JSON.parse(readFileSync(SHIPPED.packageJson, 'utf8')) as { version: string };
  const cli = new Command('rackseed')
    .description('Netboots machines into an immutable OS and brings them to a running k0s node.')
    // Not --version: commander would take it from `artifact add --version`; the last lines of this file give it back to `rackseed --version`.
    .version(version, '-V')
    .addOption(new Option('-c, --config <file>', 'settings (default: rackseed.yaml, then /etc/rackseed/rackseed.yaml)'))
    .addOption(new Option('--url <url>', 'the API of a running daemon: unix:/path or http://127.0.0.1:8081 (default: the settings\' socket)').env('RACKSEED_URL'))
    .addHelpText('after', EXIT_CODES)
    .showHelpAfterError(false)
    .configureOutput({ outputError: () => undefined })
    .exitOverride();
  const globals = (): Global => cli.opts<Global>();
  const output = (): Option => new Option('-o, --output <format>', FORMATS.join(' | ')).default('table' as Format).argParser(parseFormat);
  const print = (text: string): void => void process.stdout.write(text);

  cli
    .command('serve')
    .description('run the daemon in the foreground; SIGHUP reads the profiles again')
    .action(async () => (await import('./commands/serve.ts')).serve(globals()));

  cli
    .command('lab')
    .description('boot QEMU machines over our own DHCP, TFTP, HTTP and Git in a network of their own, and show each stage')
    .option('--nodes <n>', 'how many machines, 1 to 16', Number, 1)
    .option('--firmware <kind>', 'bios', 'bios')
    .option('--once', 'end when each node is ready or failed; exit 0 only when all are ready')
    .option('--json', 'nothing but JSON on stdout, one value a line')
    .option('--timeout <seconds>', 'until each node must be ready', Number, 600)
    .option('--no-vm', 'start no machine: print the QEMU line to paste for one of your own')
    .option('--memory <MiB>', 'of each machine (default: 2048; 4096 with a real k0s)', Number)
    .option('--k0s <file|url>', 'a real k0s release instead of the stand-in; its version is in the file name')
    .option('--sha256 <hex>', 'of that release')
    .option('--state <dir>', 'where images are kept (default: $RACKSEED_LAB_STATE, /var/lib/rackseed-lab as root, ~/.local/state/rackseed-lab)')
    .option('--keep', "keep the run's logs, consoles and database")
    .option('--console <node>', "join this terminal to a node's console of a running lab")
    .action(async (options: LabCommandOptions) => (await import('./commands/lab.ts')).labCommand(options));

  cli
    .command('check')
    .description('validate the settings and all YAML, without a daemon')
    .option('--profiles <dir>', 'check this directory of boot profiles alone')
    .action(async (options: { profiles?: string }) => (await import('./commands/check.ts')).checkCommand({ ...globals(), ...options }, { print }));

  cli
    .command('reload')
    .description('let the running daemon read its profiles again')
    .action(async () => print(await (await import('./commands/reload.ts')).reload(globals())));

  cli
    .command('probe')
    .description('ask a boot LAN as a booting machine would: who answers, with what, and does it boot')
    .requiredOption('-i, --interface <name>', 'the network card to ask on; it needs an IPv4 address')
    .option('--as <kind>', 'bios | uefi | ipxe | uefi-http', 'bios')
    .option('--mac <mac>', "ask as this machine (default: the card's own MAC)")
    .option('--timeout <seconds>', 'listen this long for answers', '5')
    .option('--expect <ip>', 'the server that should answer; any other is a stranger')
    .option('--lease', 'take the offered address for the time of the fetch, then give it back (needs root)')
    .option('--no-fetch', 'do not fetch what the answers name')
    .addOption(output())
    .action(async (options: { interface: string; as: string; mac?: string; timeout: string; expect?: string; lease?: boolean; fetch: boolean; output: Format }) => print(await (await import('./commands/probe.ts')).probeCommand(options, { print })));

  const image = cli.command('image').description('images: kernel, initrd and squashfs, built from images/<name>/image.yaml');
  image
    .command('build')
    .argument('<name>')
    .description('build an image; does nothing when its inputs did not change')
    .option('--force', 'build even when nothing changed')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (name: string, options: { force?: boolean; state?: string; output: Format }) => print(await (await import('./commands/image.ts')).imageBuild(name, { ...globals(), ...options })));
  image
    .command('list')
    .description('list the images that were built')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (options: { state?: string; output: Format }) => print(await (await import('./commands/image.ts')).imageList({ ...globals(), ...options })));
  image
    .command('show')
    .argument('<name>', 'name, name:tag or name@sha256:<digest>')
    .description('show one image: digests and sizes of its files')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (name: string, options: { state?: string; output: Format }) => print(await (await import('./commands/image.ts')).imageShow(name, { ...globals(), ...options })));

  const artifact = cli.command('artifact').description('files that nodes need beside the image, such as the k0s binary');
  artifact
    .command('add')
    .argument('<name>')
    .argument('<file>')
    .description('put a file into the artifact store')
    .requiredOption('--version <version>', 'the version that profiles name')
    .option('--sha256 <hex>', 'refuse the file unless it has this sha256')
    .addOption(output())
    .action(async (name: string, file: string, options: { version: string; sha256?: string; output: Format }) => print(await (await import('./commands/artifact.ts')).artifactAdd(name, file, { ...globals(), ...options })));
  artifact
    .command('list')
    .description('list artifacts')
    .addOption(output())
    .action(async (options: { output: Format }) => print(await (await import('./commands/artifact.ts')).artifactList({ ...globals(), ...options })));

  const node = cli.command('node').description('nodes of the running daemon');
  node
    .command('list')
    .description('list nodes with their newest boot')
    .addOption(output())
    .action(async (options: { output: Format }) => print(await (await import('./commands/node.ts')).nodeList({ ...globals(), ...options })));
  node
    .command('show')
    .argument('<node>', 'name or any of its MACs')
    .description('show one node')
    .addOption(output())
    .action(async (name: string, options: { output: Format }) => print(await (await import('./commands/node.ts')).nodeShow(name, { ...globals(), ...options })));

  const boot = cli.command('boot').description('boots of the running daemon');
  boot
    .command('show')
    .argument('<boot|node>', "a boot's id, or a node, whose newest boot is shown")
    .description('show each stage of a boot with its time')
    .addOption(output())
    .action(async (which: string, options: { output: Format }) => print(await (await import('./commands/boot.ts')).bootShow(which, { ...globals(), ...options })));

  return cli;
}

/** One line for a person; all faults of a file at once. */
function report(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    // `rackseed boot` without a verb: its help has been printed.
    if (error.code === 'commander.help') return 64;
    process.stderr.write(`rackseed: ${error.message.replace(/^error: /, '')} (rackseed --help lists the commands)\n`);
    return 64;
  }
  if (error instanceof FaultsError) for (const fault of error.faults) process.stderr.write(`${formatFault(fault)}\n`);
  if (error instanceof AppError) {
    process.stderr.write(`rackseed: ${error.message}${error.hint ? `\n  hint: ${error.hint}` : ''} [${error.code}]\n`);
    return error.exit;
  }
  process.stderr.write(`rackseed: a bug: ${lineOf(error)} [BUG]\n`);
  if (process.env['RACKSEED_DEBUG']) process.stderr.write(`${error instanceof Error ? error.stack : ''}\n`);
  return 70;
}

try {
  const [first, ...rest] = process.argv.slice(2);
  await program().parseAsync([...process.argv.slice(0, 2), ...(first === '--version' ? ['-V'] : first === undefined ? ['--help'] : [first]), ...rest]);
} catch (error) {
  process.exitCode = report(error);
}
// Without a pending answer the loop would end by itself; a command that left something open must not hang a script.
process.exit();
