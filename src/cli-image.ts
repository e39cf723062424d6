// The image and keys commands of the command line: argv -> commands/image*.ts and commands/keys.ts.
import type { Command, Option } from 'commander';
import type { Format } from './commands/output.ts';

/** What cli.ts gives each group of commands: the options that stand before the verb, the --output option, where text goes. */
export interface Shared {
  readonly globals: () => { readonly config?: string; readonly url?: string };
  readonly output: () => Option;
  readonly print: (text: string) => void;
}

/** Adds `image …` and `keys …` to the command line. */
export function addImageCommands(cli: Command, { globals, output, print }: Shared): void {
  const image = cli.command('image').description('images: kernel, initrd and squashfs, built from images/<name>/image.yaml');
  image
    .command('build')
    .argument('<name>')
    .description('build an image; does nothing when its inputs did not change')
    .option('--force', 'build even when nothing changed')
    .option('--locked', "build exactly the package versions of the image's lock")
    .option('--sign <file>', "sign it with this secret key (default: the settings' images.sign; rackseed keys init images)")
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (name: string, options: { force?: boolean; locked?: boolean; sign?: string; state?: string; output: Format }) => print(await (await import('./commands/image.ts')).imageBuild(name, { ...globals(), ...options })));
  image
    .command('update')
    .argument('<name>')
    .description("move the image's lock to the package versions that its mirror has today; builds nothing")
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (name: string, options: { state?: string; output: Format }) => print(await (await import('./commands/image-update.ts')).imageUpdate(name, { ...globals(), ...options })));
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
    .action(async (name: string, options: { state?: string; output: Format }) => print(await (await import('./commands/image-show.ts')).imageShow(name, { ...globals(), ...options })));

  image
    .command('tag')
    .argument('<build>', 'name, name:tag, name@sha256:<digest>; the first digits of a digest do')
    .argument('<tag>', 'such as stable')
    .description('point a tag at a build; a tag that names another one moves')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (ref: string, tag: string, options: { state?: string; output: Format }) => print(await (await import('./commands/image-versions.ts')).imageTag(ref, tag, { ...globals(), ...options })));
  image
    .command('untag')
    .argument('<name:tag>')
    .description('take a tag away; the build stays')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (ref: string, options: { state?: string; output: Format }) => print(await (await import('./commands/image-versions.ts')).imageUntag(ref, { ...globals(), ...options })));
  image
    .command('diff')
    .argument('<a>', 'name, name:tag or name@sha256:<digest>')
    .argument('<b>')
    .description('what changes from one build to another: sizes, packages, files')
    .option('--no-files', 'do not read the squashfs: sizes and packages alone')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (a: string, b: string, options: { files: boolean; state?: string; output: Format }) => print(await (await import('./commands/image-versions.ts')).imageDiff(a, b, { ...globals(), ...options })));
  image
    .command('rm')
    .argument('<build...>', 'name:tag or name@sha256:<digest>')
    .description('remove builds that nobody uses; image gc gives the room back')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (refs: string[], options: { state?: string; output: Format }) => print(await (await import('./commands/image-versions.ts')).imageRm(refs, { ...globals(), ...options })));
  image
    .command('gc')
    .description('remove old builds that nobody uses, and every blob that nothing names; safe beside a running daemon')
    .option('--keep <n>', 'of each image the newest dated builds that stay (default: 5)')
    .option('--dry-run', 'only say what would go')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (options: { keep?: string; dryRun?: boolean; state?: string; output: Format }) => print(await (await import('./commands/image-versions.ts')).imageGc({ ...globals(), ...options })));
  image
    .command('export')
    .argument('<builds-and-file...>', 'builds, then the file.tar that they go to')
    .description('write builds with tags and all files to one archive, an OCI image layout')
    .option('--oci <dir|file.tar>', 'there instead; a directory must be new or empty')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (words: string[], options: { oci?: string; state?: string; output: Format }) => print(await (await import('./commands/image-transfer.ts')).imageExport(words, { ...globals(), ...options })));
  image
    .command('import')
    .argument('<file.tar|dir>', 'what image export wrote')
    .description('take builds from an archive or OCI layout; every byte is verified before anything can be seen')
    .option('--key <file>', "take only what this public key signed, may stand twice (default: the settings' images.keys)", (file: string, before?: string[]) => [...(before ?? []), file])
    .option('--move-tags', 'move tags of people, too, that name another build here')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (from: string, options: { key?: string[]; moveTags?: boolean; state?: string; output: Format }) => print(await (await import('./commands/image-transfer.ts')).imageImport(from, { ...globals(), ...options })));

  image
    .command('uki')
    .argument('<name>', 'name, name:tag or name@sha256:<digest>')
    .description('make one EFI program of kernel, initrd and a command line, for loader: uki (systemd-boot-efi has the stub)')
    .option('--cmdline <text>', 'kernel arguments in it, the same for all nodes')
    .option('--sign <dir>', 'sign it with db.key of this directory (rackseed keys init secure-boot)')
    .option('--stub <file>', "systemd's stub (default: Debian's for the image's architecture)")
    .option('--out <file>', 'copy it there, too')
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (name: string, options: { cmdline?: string; sign?: string; stub?: string; out?: string; state?: string; output: Format }) => print(await (await import('./commands/image.ts')).imageUki(name, { ...globals(), ...options })));

  image
    .command('sign')
    .argument('<name>', 'name, name:tag or name@sha256:<digest>')
    .description('sign an image that is built already (builds sign by themselves, by images.sign or --sign)')
    .option('--key <file>', "secret key (default: the settings' images.sign; rackseed keys init images)")
    .option('--state <dir>', 'state directory (default: the settings\')')
    .addOption(output())
    .action(async (name: string, options: { key?: string; state?: string; output: Format }) => print(await (await import('./commands/image-sign.ts')).imageSign(name, { ...globals(), ...options })));

  const keys = cli.command('keys').description("the operator's own keys");
  keys
    .command('init')
    .argument('<kind>', 'secure-boot or images')
    .description('make PK, KEK and db for Secure Boot with the files to enrol them, or the pair that signs images; never overwrites')
    .option('--dir <dir>', 'an empty or new directory (default: secure-boot or image-keys, here)')
    .action(async (kind: string, options: { dir?: string }) => print(await (await import('./commands/keys.ts')).keysInit(kind, { ...globals(), ...options })));
}
