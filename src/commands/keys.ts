// `rackseed keys init secure-boot`: the operator's own Secure Boot keys, and how they get into a machine.
import { join, resolve } from 'node:path';
import { readSettings } from '../config/settings.ts';
import { makeSecureBootKeys } from '../images/signing.ts';

/** Below the settings' state directory, unless `dir` names another place. */
export async function keysInit(options: { readonly config?: string; readonly dir?: string }): Promise<string> {
  const dir = options.dir === undefined ? join(readSettings(options.config).stateDir, 'secure-boot') : resolve(options.dir);
  await makeSecureBootKeys(dir);
  return `${dir}: PK, KEK and db, for ten years

  *.key   the private keys: whoever has them decides what your machines boot. Keep PK.key and KEK.key off this machine once all are enrolled.
  *.crt *.cer   the certificates, as PEM and as DER
  *.esl *.auth  the same for enrolment: .esl for a firmware in setup mode, .auth also for one that has these keys already

Enrol, on each machine once, in the order db, KEK, PK (with PK the firmware leaves setup mode):
  in its setup screens   delete the keys that are there, then take db.cer, KEK.cer and PK.cer from a FAT stick
  from a running Linux   efi-updatevar -f db.auth db; efi-updatevar -f KEK.auth KEK; efi-updatevar -f PK.auth PK   (package efitools)
  QEMU's OVMF            python3 -m virt.firmware.vars --set-pk GUID PK.crt --add-kek GUID KEK.crt --add-db GUID db.crt --secure-boot; GUID is in owner.guid
Option ROMs of cards are signed by Microsoft: a machine that needs one must have Microsoft's certificates in db as well.

Then: rackseed image uki NAME --sign ${dir}
`;
}
