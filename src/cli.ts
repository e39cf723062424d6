#!/usr/bin/env node
// The command line: argv -> one command of commands/; the only file that exits.
import { Command, CommanderError, Option } from 'commander';
import { readFileSync } from 'node:fs';
import { AppError, FaultsError, formatFault, lineOf } from './errors.ts';
import { SHIPPED } from './shipped.ts';
import { addImageCommands } from './cli-image.ts';
import type { LabCommandOptions } from './commands/lab.ts';
import { LEASE_FORMATS, type LeaseFormat } from './dhcp/lease-formats/formats.ts';
import { CHECK_FORMATS, type CheckFormat } from './commands/check-formats.ts';
import type { RenderPart } from './commands/render-machines.ts';
import { FORMATS, parseFormat, type Format } from './commands/output.ts';

const EXIT_CODES = `
Exit codes: 0 done · 1 failed · 2 plan found changes · 64 the command line was not understood · 65 YAML or other input has faults · 66 no such node, image, boot ·
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
    .option('--firmware <kind>', 'bios, bios-e1000, bios-rtl8139, uefi, uefi-http, uefi-http-uki, uefi-proxy, uefi-arm64, secureboot, secureboot-own', 'bios')
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
    .addOption(new Option('--format <format>', 'of the output; sarif: SARIF 2.1.0 for CI').choices(CHECK_FORMATS).default('text'))
    .action(async (options: { profiles?: string; format: CheckFormat }) => (await import('./commands/check.ts')).checkCommand({ ...globals(), ...options }, { print }));

  cli
    .command('schema')
    .argument('[kind]', 'settings | profile | image | quirks', 'settings')
    .description('print the JSON Schema of a YAML file of ours, for editors')
    .action(async (kind: string) => print((await import('./commands/schema.ts')).schemaCommand(kind)));

  cli
    .command('plan')
    .description('what the edited profiles would change, before they go live; exit 2 when they would')
    .option('--profiles <dir>', "these boot profiles, in place of the daemon's own directory")
    .addOption(output())
    .action(async (options: { profiles?: string; output: Format }) => {
      const { text, changes } = await (await import('./commands/plan.ts')).planCommand({ ...globals(), ...options });
      print(text);
      if (changes) process.exitCode = 2;
    });

  cli
    .command('render')
    .argument('<node>', 'name or any of its MACs')
    .description('what the servers would send a node: DHCP answers, script, config and facts; asks no daemon')
    .option('--as <kind>', 'bios | uefi | uefi-http | uefi-arm64 | uefi-http-arm64 | uefi-ia32 | ipxe | ipxe-uefi', 'bios')
    .option('--mac <mac>', "the node's card that boots (default: its first)")
    .option('--running', 'of the running generation, in place of the files')
    .option('--profiles <dir>', "these boot profiles, in place of the settings' directory")
    .option('--raw', 'DHCP answers as hex, too')
    .addOption(new Option('--only <part>', 'that alone, byte for byte').choices(['dhcp', 'script', 'config', 'facts']))
    .action(async (node: string, options: { as: string; mac?: string; running?: boolean; profiles?: string; raw?: boolean; only?: RenderPart }) => print(await (await import('./commands/render.ts')).renderCommand(node, { ...globals(), ...options })));

  cli
    .command('history')
    .argument('[node]', 'name or any of its MACs; default: the generations of the daemon')
    .description('what each generation changed; with a node: its assignments and boots')
    .option('--limit <n>', 'newest entries, 1 to 500 (default: 50)')
    .addOption(output())
    .action(async (node: string | undefined, options: { limit?: string; output: Format }) => print(await (await import('./commands/history.ts')).history(node, { ...globals(), ...options })));

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

  addImageCommands(cli, { globals, output, print });

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

  const loader = cli.command('loader').description('programs that firmware fetches first: iPXE and the like');
  loader
    .command('list')
    .description('list the loader sets, with versions, and which firmware is given what')
    .option('--dir <dir>', 'this directory alone, before it is a set')
    .addOption(output())
    .action(async (options: { dir?: string; output: Format }) => print(await (await import('./commands/loader.ts')).loaderList({ ...globals(), ...options })));

  loader
    .command('add')
    .argument('<name>', 'what profiles call it, such as ipxe-2.0')
    .argument('<path...>', 'files, directories, FILE=NAME')
    .description('add a loader set to the state directory; grubnetx64.efi becomes grubx64.efi, *.efi.signed loses .signed')
    .option('--replace', 'in place of the set of that name')
    .addOption(output())
    .action(async (name: string, paths: string[], options: { replace?: boolean; output: Format }) => print(await (await import('./commands/loader.ts')).loaderAdd(name, paths, { ...globals(), ...options })));

  const blob = cli.command('blob').description('files of images and artifacts, stored under their sha256');
  blob
    .command('export')
    .argument('<dir>')
    .description("lay the images' files out for another web server (http.publicBase); again only adds")
    .option('--link', 'hard links instead of copies')
    .option('--all', 'artifacts too, and whatever else is in the store')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (dir: string, options: { link?: boolean; all?: boolean; state?: string; output: Format }) => print(await (await import('./commands/blob.ts')).blobExport(dir, { ...globals(), ...options })));

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
  node
    .command('known-hosts')
    .argument('[node]', 'name or any of its MACs (default: all that somebody may log in to)')
    .description("print the nodes' ssh host keys as lines for known_hosts")
    .action(async (name: string | undefined) => print(await (await import('./commands/node.ts')).nodeKnownHosts(name, globals())));
  node
    .command('next')
    .argument('<node>', 'name or any of its MACs')
    .argument('[what]', 'netboot | boot-once | local')
    .description('what a node does when it starts next; boot-once: from the network until one boot got ready, from its disk from then on')
    .option('--clear', 'take back what was said: what its YAML says counts again')
    .addOption(output())
    .action(async (name: string, next: string | undefined, options: { clear?: boolean; output: Format }) => print(await (await import('./commands/node.ts')).nodeNext(name, next, { ...globals(), ...options })));
  node
    .command('release')
    .argument('<node>', 'name or any of its MACs')
    .description('let a node boot again that is held because its boots failed one after the other')
    .addOption(output())
    .action(async (name: string, options: { output: Format }) => print(await (await import('./commands/node.ts')).nodeRelease(name, { ...globals(), ...options })));
  node
    .command('discovered')
    .description('list PXE machines that asked and that no profile names')
    .addOption(output())
    .action(async (options: { output: Format }) => print(await (await import('./commands/node.ts')).nodeDiscovered({ ...globals(), ...options })));

  const lease = cli.command('lease').description('DHCP leases of the running daemon');
  lease
    .command('list')
    .description('list leases and quarantined addresses, ended ones too')
    .option('--subnet <subnet>', 'only of this subnet, such as 10.77.0.0/24')
    .addOption(output())
    .action(async (options: { subnet?: string; output: Format }) => print(await (await import('./commands/lease.ts')).leaseList({ ...globals(), ...options })));
  lease
    .command('export')
    .description('print what holds now, for another server or as a copy')
    .option('--subnet <subnet>', 'only of this subnet')
    .addOption(new Option('--format <format>', 'of the output').choices(LEASE_FORMATS).default('json'))
    .action(async (options: { subnet?: string; format: LeaseFormat }) => print(await (await import('./commands/lease.ts')).leaseExport({ ...globals(), ...options })));
  lease
    .command('import')
    .argument('<file>', 'dhcpd.leases, kea-leases4.csv, dnsmasq.leases or an export of ours; - reads the standard input')
    .description("take over another DHCP server's leases")
    .addOption(new Option('--format <format>', 'of the file').choices(['auto', ...LEASE_FORMATS]).default('auto'))
    .option('--dry-run', 'only say what would happen')
    .action(async (file: string, options: { format: LeaseFormat | 'auto'; dryRun?: boolean }) => print(await (await import('./commands/lease.ts')).leaseImport(file, { ...globals(), ...options })));
  lease
    .command('remove')
    .argument('<ip>')
    .description('forget an address: its lease, who had it last, its quarantine')
    .action(async (ip: string) => print(await (await import('./commands/lease.ts')).leaseRemove(ip, globals())));

  const dhcp = cli.command('dhcp').description('what the running daemon does on each link');
  dhcp
    .command('status')
    .description('list links with their mode, and what another DHCP server keeps them from')
    .addOption(output())
    .action(async (options: { output: Format }) => print(await (await import('./commands/dhcp.ts')).dhcpStatus({ ...globals(), ...options })));
  dhcp
    .command('resume')
    .argument('[interface]', 'default: all')
    .description('serve again where another DHCP server was in the way and is gone')
    .addOption(output())
    .action(async (link: string | undefined, options: { output: Format }) => print(await (await import('./commands/dhcp.ts')).dhcpResume(link, { ...globals(), ...options })));

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
// What a pipe has not taken yet would be lost.
await Promise.all([process.stdout, process.stderr].map((stream) => new Promise<void>((resolve) => stream.write('', () => resolve()))));
// Without a pending answer the loop would end by itself; a command that left something open must not hang a script.
process.exit();
