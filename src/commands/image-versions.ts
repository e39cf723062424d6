// `rackseed image tag|untag|diff|rm|gc`: the builds of an image as versions that come, are told apart, and go.
import { AppError } from '../errors.ts';
import { diffImages, type Change, type ListedFile } from '../images/diff.ts';
import { collectGarbage, KEEP, type GcBuild } from '../images/gc.ts';
import { createImageStore } from '../images/manifest.ts';
import { findBuild, tagsOf } from '../images/refs.ts';
import { readUses } from '../images/uses.ts';
import { COLUMNS, shortDigest, shown, stateOf, whereUsed, withTags, type ImageOptions } from './image-options.ts';
import { bytes, duration, render, type Column } from './output.ts';

/** Points a tag at the build; a tag that names another one moves. IMAGE_UNKNOWN, USAGE. */
export async function imageTag(ref: string, tag: string, options: ImageOptions): Promise<string> {
  const store = createImageStore(stateOf(options));
  const { image } = await findBuild(store, ref);
  const before = (await store.tags(image.name))[tag];
  await store.tag(image.name, tag, image.digest);
  const tagged = await withTags(store, image);
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, { ...shown(tagged), ...(before === undefined ? {} : { before }) }, [], []);
  const was = before === undefined ? '' : before === image.digest ? ', as before' : `, and ${shortDigest(before)} no more`;
  return `${image.name}:${tag} names ${shortDigest(image.digest)}${was}; profiles that name it boot it after rackseed reload\n${render(options.output, undefined, [tagged], COLUMNS)}`;
}

/** Takes a tag away; the build stays until `image gc` finds that nobody uses it. IMAGE_UNKNOWN when there is no such tag. */
export async function imageUntag(ref: string, options: ImageOptions): Promise<string> {
  const store = createImageStore(stateOf(options));
  const { image, tag } = await findBuild(store, ref);
  if (tag === undefined) throw new AppError('USAGE', `${ref} names no tag`, `write ${image.name}:TAG`);
  await store.untag(image.name, tag);
  const tagged = await withTags(store, image);
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, shown(tagged), [], []);
  return `${image.name} has no tag ${tag} any more\n${render(options.output, undefined, [tagged], COLUMNS)}`;
}

/** Removes a build's record; its files go with `image gc`. IMAGE_IN_USE when somebody uses it, or it has more tags than the one it was named by. */
export async function imageRm(refs: readonly string[], options: ImageOptions): Promise<string> {
  const where = whereUsed(options);
  const store = createImageStore(where.stateDir);
  const going = new Map<string, Awaited<ReturnType<typeof withTags>>>();
  const uses = await readUses(where, store);
  // All of them are looked at before the first one goes.
  for (const ref of refs) {
    const { image, by, tag } = await findBuild(store, ref);
    if (by === 'name') throw new AppError('USAGE', `${ref}: which build of it?`, `write ${ref}:TAG or ${ref}@sha256:…; rackseed image list has them`);
    const users = uses.of(image);
    if (users.length > 0) throw new AppError('IMAGE_IN_USE', `${ref} is used by ${users.join('; ')}`, 'let them boot another one first');
    const others = (await tagsOf(store, image)).filter((one) => one !== tag);
    if (by === 'tag' && others.length > 0) throw new AppError('IMAGE_IN_USE', `${ref} has more tags: ${others.join(', ')}`, `take one away: rackseed image untag ${ref}; or name the build by its digest: ${image.name}@${shortDigest(image.digest)}`);
    going.set(image.digest, await withTags(store, image));
  }
  for (const image of going.values()) await store.remove(image.name, image.digest);
  const removed = [...going.values()];
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, { removed: removed.map(shown) }, [], []);
  return `removed; rackseed image gc gives the room back\n${render(options.output, undefined, removed, COLUMNS)}`;
}

const GC_COLUMNS: readonly Column<GcBuild & { readonly dryRun: boolean }>[] = [
  { title: 'NAME', of: ({ image }) => image.name },
  { title: 'TAGS', of: ({ tags }) => tags.join(',') },
  { title: 'DIGEST', of: ({ image }) => shortDigest(image.digest) },
  { title: 'AGE', of: ({ image }) => duration(Date.now() - image.builtAt) },
  { title: 'WHAT', of: ({ why, dryRun }) => (why === undefined ? (dryRun ? 'would go' : 'removed') : 'stays') },
  { title: 'WHY', of: ({ why }) => why ?? 'nobody uses it' },
];

/** `keep`: so many dated builds of each image stay. */
export async function imageGc(options: ImageOptions & { readonly keep?: string; readonly dryRun?: boolean }): Promise<string> {
  const keep = options.keep === undefined ? KEEP : Number(options.keep);
  if (!Number.isSafeInteger(keep) || keep < 0) throw new AppError('USAGE', `--keep ${options.keep}: not a number of builds`, 'such as --keep 3');
  const { dryRun = false } = options;
  const { builds, blobs } = await collectGarbage({ ...whereUsed(options), keep, dryRun });
  const freed = blobs.reduce((sum, { size }) => sum + size, 0);
  if (options.output === 'json' || options.output === 'yaml') {
    const value = { dryRun, bytes: freed, blobs, builds: builds.map(({ image, tags, why }) => ({ name: image.name, digest: image.digest, tags, removed: why === undefined, ...(why === undefined ? {} : { why }) })) };
    return render(options.output, value, [], []);
  }
  const going = builds.filter(({ why }) => why === undefined).length;
  const digests = options.output === 'wide' && blobs.length > 0 ? `\n${blobs.map(({ digest, size }) => `${digest}   ${bytes(size)}\n`).join('')}` : '';
  return `${dryRun ? 'would remove' : 'removed'} ${many(going, 'build')} and ${many(blobs.length, 'blob')}: ${bytes(freed)}\n${builds.length > 0 ? render(options.output, undefined, builds.map((build) => ({ ...build, dryRun })), GC_COLUMNS) : ''}${digests}`;
}

/** Files that a table shows; `-o wide` shows all. */
const MOST_FILES = 40;

/** What changes from build `a` to build `b`. `files` false: their squashfs are not read. */
export async function imageDiff(a: string, b: string, options: ImageOptions & { readonly files?: boolean }): Promise<string> {
  const stateDir = stateOf(options);
  const store = createImageStore(stateDir);
  const [{ image: before }, { image: after }] = [await findBuild(store, a), await findBuild(store, b)];
  const { packages, files, sizes } = await diffImages(stateDir, before, after, options.files ?? true);
  const ends = { before: { name: before.name, digest: before.digest }, after: { name: after.name, digest: after.digest } };
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, { ...ends, sizes, packages, ...(files ? { files } : {}) }, [], []);
  const parts = [
    `${before.name}@${shortDigest(before.digest)} -> ${after.name}@${shortDigest(after.digest)}${before.digest === after.digest ? ': the same build' : ''}\n`,
    render('table', undefined, sizes, [
      { title: 'FILE', of: ({ what }) => what },
      { title: 'BEFORE', of: (one) => one.before !== undefined ? bytes(one.before) : undefined },
      { title: 'AFTER', of: (one) => one.after !== undefined ? bytes(one.after) : undefined },
      { title: 'CHANGE', of: (one) => (one.same ? 'same' : difference(one.before, one.after)) },
    ]),
    packages.length === 0
      ? `packages: the same ${after.packages.length}\n`
      : `packages: ${counts(packages)}\n${render('table', undefined, packages, [{ title: 'PACKAGE', of: ({ what }) => what }, { title: 'BEFORE', of: (one) => one.before }, { title: 'AFTER', of: (one) => one.after }])}`,
  ];
  if (files) parts.push(files.length === 0 ? 'files: the same, by name, size, mode and owner\n' : filesTable(files, options.output === 'wide'));
  return parts.join('\n');
}

function filesTable(files: readonly Change<ListedFile>[], all: boolean): string {
  // The most bytes first: what made an image grow is what people look for.
  const weight = ({ before, after }: Change<ListedFile>): number => Math.abs((after?.size ?? 0) - (before?.size ?? 0));
  const listed = all ? files : [...files].sort((a, b) => weight(b) - weight(a) || (a.what < b.what ? -1 : 1)).slice(0, MOST_FILES);
  const words = (file: ListedFile | undefined): string | undefined => file && `${file.mode} ${file.owner} ${file.size ?? (file.target === undefined ? '' : `-> ${file.target}`)}`.trim();
  const rest = files.length > listed.length ? `and ${files.length - listed.length} more with smaller changes: -o wide\n` : '';
  return `files: ${counts(files)}\n${render('table', undefined, listed, [{ title: 'PATH', of: ({ what }) => what }, { title: 'BEFORE', of: ({ before }) => words(before) }, { title: 'AFTER', of: ({ after }) => words(after) }])}${rest}`;
}

function counts(changes: readonly Change<unknown>[]): string {
  const added = changes.filter(({ before }) => before === undefined).length;
  const removed = changes.filter(({ after }) => after === undefined).length;
  return `${added} added, ${removed} removed, ${changes.length - added - removed} changed`;
}

function difference(before = 0, after = 0): string {
  return before === after ? 'other content' : `${after > before ? '+' : '-'}${bytes(Math.abs(after - before))}`;
}

function many(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
