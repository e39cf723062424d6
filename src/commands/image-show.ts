// `rackseed image show`: all that is known of one build.
import { createImageStore, imageFiles, type ImageFile, type ImageManifest } from '../images/manifest.ts';
import { signerOf } from '../images/minisign.ts';
import { findBuild } from '../images/refs.ts';
import { readUses } from '../images/uses.ts';
import { createBlobStore, type BlobStore } from '../store/blobs.ts';
import { shown, stateOf, whereUsed, withTags, type ImageOptions, type TaggedImage } from './image-options.ts';
import { bytes, duration, render, type Column } from './output.ts';

interface ShownFile extends ImageFile {
  readonly there: boolean;
}

const FILES: readonly Column<ShownFile>[] = [
  { title: 'FILE', of: ({ kind }) => kind },
  { title: 'SIZE', of: ({ size }) => bytes(size) },
  { title: 'DIGEST', of: ({ digest }) => digest },
  { title: 'HERE', of: ({ there }) => (there ? 'yes' : 'LOST') },
];

/** `ref` is `name`, `name:tag`, `name@sha256:<digest>` or the digest's first digits. IMAGE_UNKNOWN when there is no such build. */
export async function imageShow(ref: string, options: ImageOptions): Promise<string> {
  const stateDir = stateOf(options);
  const store = createImageStore(stateDir);
  const image = await withTags(store, (await findBuild(store, ref)).image);
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, shown(image), [], []);
  const blobs = createBlobStore(stateDir);
  const files = await Promise.all(imageFiles(image).map(async (file) => ({ ...file, there: (await blobs.stat(file.digest))?.size === file.size })));
  // Whoever may not read the database is shown the image all the same.
  const users = await readUses(whereUsed(options), store).then((uses) => uses.of(image), () => ['not known: the database cannot be read']);
  const lines = await facts(image, blobs, users);
  const width = Math.max(...lines.map(([what]) => what.length));
  const packages = options.output === 'wide' ? `\n${image.packages.map((one) => `${one}\n`).join('')}` : '';
  return `${lines.map(([what, value]) => `${what.padEnd(width)}   ${value.replace(/[\x00-\x1f\x7f-\x9f]/g, '?')}\n`).join('')}\n${render('table', undefined, files, FILES)}${packages}`;
}

async function facts(image: TaggedImage, blobs: BlobStore, users: readonly string[]): Promise<[string, string][]> {
  const { arch, kernel, cmdline = [], packages, verity, uki, trusts = [] } = image;
  return [
    ['image', image.name],
    ['digest', image.digest],
    ['tags', image.tags.join(', ') || 'none'],
    ['arch', arch],
    ['built', `${new Date(image.builtAt).toISOString().slice(0, 16).replace('T', ' ')} UTC (${duration(Date.now() - image.builtAt)} ago) by ${image.builder}`],
    ['serial', String(image.serial ?? 0)],
    ['kernel', kernel.version],
    ...(cmdline.length > 0 ? [['kernel arguments', cmdline.join(' ')] as [string, string]] : []),
    ['packages', `${packages.length} (-o wide lists them)`],
    ['signed', await signer(image, blobs)],
    ['initrd trusts', trusts.length > 0 ? trusts.map((key) => `key ${key}`).join(', ') : 'the digest in its config'],
    ['dm-verity', verity ? `${verity.rootHash}, ${verity.blocks} blocks` : 'no: the squashfs is hashed before it is mounted'],
    ...(uki ? [['UKI', `${uki.signed ? 'signed' : 'not signed'}, ${uki.cmdline}`] as [string, string]] : []),
    ['input', image.input],
    ['used by', users.join('; ') || 'nobody'],
  ];
}

/** By what the signature says of itself: that it is good is for the initrd to find, and for an import. */
async function signer(image: ImageManifest, blobs: BlobStore): Promise<string> {
  if (!image.signed) return 'no';
  const opened = await blobs.open(image.signed.signature.digest);
  if (!opened) return 'the signature is LOST';
  try {
    return `by key ${signerOf(await opened.handle.readFile('utf8'), 'signature')}`;
  } catch {
    return 'by a signature that is not understood';
  } finally {
    await opened.handle.close();
  }
}
