// `image gc` and `image rm` beside a running daemon: what it hands out stays, what goes is not offered any more, and who is reading it gets it whole.
import { createHash } from 'node:crypto';
import { get, type IncomingMessage } from 'node:http';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { blobPath } from '../../src/boot/urls.ts';
import type { BlobRef, ImageRef } from '../../src/boot/profile.ts';
import { imageExport, imageImport } from '../../src/commands/image-transfer.ts';
import { imageRm, imageTag } from '../../src/commands/image-versions.ts';
import type { Digest } from '../../src/digest.ts';
import { collectGarbage } from '../../src/images/gc.ts';
import { createImageStore } from '../../src/images/manifest.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
let n1: Machine;
let state: string;
const here = (): { state: string; output: 'table' } => ({ state, output: 'table' });

beforeAll(async () => {
  world = await startWorld();
  state = join(world.dir, 'state');
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
  n1.pretend(world.ips.n1);
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

const ask = (digest: Digest): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port: world.httpPort, path: blobPath(digest), localAddress: world.ips.n1, agent: false }, resolve).on('error', reject);
  });
const status = async (digest: Digest): Promise<number> => {
  const response = await ask(digest);
  response.resume();
  return response.statusCode ?? 0;
};
/** Two hours from now, when nothing is young any more. */
const gc = () => collectGarbage({ stateDir: state, now: Date.now() + 2 * 3_600_000, settleMs: 50 });

/** Another build, with a large file that nobody else names, and its tag. */
async function publish(content: string): Promise<{ image: ImageRef; large: BlobRef }> {
  const image = await world.publish('other', content);
  const images = createImageStore(state);
  const large = await createBlobStore(state).add(Readable.from([Buffer.alloc(24 << 20, content)]));
  await images.put({ ...(await images.get('other'))!, sbom: large });
  return { image, large };
}

describe('beside a daemon', () => {
  it('what a profile boots stays although its tag is gone; a build that nobody uses goes, and a download that is under way ends whole', async () => {
    const { image, large } = await publish('one');
    const images = createImageStore(state);
    await images.untag('other', 'latest');
    await images.untag('debian-k0s', 'latest');
    const response = await ask(large.digest);
    expect(response.statusCode).toBe(200);
    const { builds, blobs } = await gc();
    expect(builds.map(({ image, why }) => [image.name, why])).toEqual([['debian-k0s', 'used by profile k0s-single, assigned to n1, n2'], ['other', undefined]]);
    expect(blobs.map(({ digest }) => digest)).toContain(large.digest);
    expect(await status(large.digest)).toBe(404);
    expect(await status(image.squashfs.digest)).toBe(404);
    expect(await status(world.image.squashfs.digest)).toBe(200);
    const hash = createHash('sha256');
    for await (const piece of response) hash.update(piece as Buffer);
    expect(`sha256:${hash.digest('hex')}`).toBe(large.digest);
    await imageTag(`debian-k0s@${world.image.digest}`, 'latest', here());
  });

  it('an imported build is served under its digests at once, boots after a reload, and cannot be removed from then on', async () => {
    const { image } = await publish('two');
    const file = join(world.dir, 'other.tar');
    await imageExport(['other', file], here());
    await imageRm([`other@${image.digest}`], here());
    await gc();
    expect(await status(image.squashfs.digest)).toBe(404);
    await imageImport(file, here());
    expect(await status(image.squashfs.digest)).toBe(200);
    writeFileSync(join(world.profilesDir, 'k0s-single.yaml'), PROFILE.replace('image: debian-k0s', 'image: other'));
    await world.api('/api/reload', 'POST');
    await expect(imageRm([`other@${image.digest}`], here())).rejects.toMatchObject({ code: 'IMAGE_IN_USE', message: expect.stringContaining('profile k0s-single, assigned to n1, n2') });
    expect((await gc()).builds.every(({ why }) => why !== undefined)).toBe(true);
    expect(await status(image.squashfs.digest)).toBe(200);
  });
});
