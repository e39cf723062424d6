// The image that a lab boots: the shipped one, with another kernel where the machine's card needs it.
import { cp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDocument } from 'yaml';
import { SHIPPED } from '../shipped.ts';
import { firmwareRow, type LabFirmware } from './firmware.ts';

export const LAB_IMAGE = 'debian-k0s';

/** What `images/debian-k0s/image.yaml` says of real hardware: the cloud kernel that it ships with has no driver for a card of silicon. */
const KERNEL_WITH_DRIVERS = 'linux-image-amd64';

/**
 * Where the builder shall read LAB_IMAGE for this firmware: in the checkout, or in a copy of it below `state` that names the other kernel. Both builds stay in
 * `state`; that of the last lab has the tag.
 */
export async function imagesDirFor(firmware: LabFirmware, state: string): Promise<string> {
  if (!firmwareRow(firmware).drivers) return SHIPPED.images;
  const dir = join(state, 'images-with-drivers');
  await rm(dir, { recursive: true, force: true });
  // Of a directory that is itself a link, cp makes a link: what is written below would then change the checkout.
  await cp(await realpath(SHIPPED.images), dir, { recursive: true, verbatimSymlinks: true });
  const file = join(dir, LAB_IMAGE, 'image.yaml');
  const document = parseDocument(await readFile(file, 'utf8'));
  document.setIn(['kernel', 'package'], KERNEL_WITH_DRIVERS);
  await writeFile(file, document.toString({ lineWidth: 0 }));
  return dir;
}
