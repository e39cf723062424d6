// The image that a lab boots: the shipped one, with another kernel where the machine's card needs it, and as a UKI where the firmware starts that.
import { existsSync } from 'node:fs';
import { cp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDocument } from 'yaml';
import { buildImage, type BuildOptions, type BuildResult } from '../images/build.ts';
import { makeSecureBootKeys } from '../images/signing.ts';
import { makeUki } from '../images/uki.ts';
import { SHIPPED } from '../shipped.ts';
import { firmwareRow, userEmulatorOf, type LabFirmware } from './firmware.ts';

export const LAB_IMAGE = 'debian-k0s';

/** What `images/debian-k0s/image.yaml` says of real hardware: the cloud kernel that it ships with has no driver for a card of silicon. */
const KERNEL_WITH_DRIVERS = 'linux-image-amd64';
const KERNEL_ARM64 = 'linux-image-cloud-arm64';

/** As UKI_CMDLINE, but the console that people see is the one that the lab has. */
export const LAB_UKI_CMDLINE = 'rackseed.net=dhcp console=ttyS0,115200';

/** The lab's own Secure Boot keys below its `state`: made once, so that signed UKIs and enrolled machines of all its runs fit. */
export function labKeys(state: string): string {
  return join(state, 'secure-boot');
}

/** Everything that this firmware's machines boot, in `state`: the image, built unless it is there already, and its UKI, made anew each time. */
export async function buildLabImage(firmware: LabFirmware, state: string, how: Pick<BuildOptions, 'onProgress' | 'signal'>): Promise<BuildResult> {
  const emulator = userEmulatorOf(firmware);
  const built = await buildImage({ ...how, ...(emulator === undefined ? {} : { emulator }), name: LAB_IMAGE, imagesDir: await imagesDirFor(firmware, state), stateDir: state });
  const { loader, ownKeys } = firmwareRow(firmware);
  if (loader !== 'uki') return built;
  const keys = labKeys(state);
  if (ownKeys && !existsSync(keys)) await makeSecureBootKeys(keys);
  const { manifest } = await makeUki({ name: LAB_IMAGE, stateDir: state, cmdline: LAB_UKI_CMDLINE, ...(ownKeys ? { sign: keys } : {}) });
  return { ...built, manifest };
}

/**
 * Where the builder shall read LAB_IMAGE for this firmware: in the checkout, or in a copy of it below `state` that names the other kernel, and the processor. All
 * builds stay in `state`; that of the last lab has the tag.
 */
export async function imagesDirFor(firmware: LabFirmware, state: string): Promise<string> {
  const { drivers, arch } = firmwareRow(firmware);
  if (!drivers && !arch) return SHIPPED.images;
  const dir = join(state, drivers ? 'images-with-drivers' : `images-${arch}`);
  await rm(dir, { recursive: true, force: true });
  // Of a directory that is itself a link, cp makes a link: what is written below would then change the checkout.
  await cp(await realpath(SHIPPED.images), dir, { recursive: true, verbatimSymlinks: true });
  const file = join(dir, LAB_IMAGE, 'image.yaml');
  const document = parseDocument(await readFile(file, 'utf8'));
  if (arch) document.set('arch', arch);
  document.setIn(['kernel', 'package'], drivers ? KERNEL_WITH_DRIVERS : KERNEL_ARM64);
  await writeFile(file, document.toString({ lineWidth: 0 }));
  return dir;
}
