// Every path that rackseed hands to a machine, written once: DHCP, TFTP, scripts and routes all take them from here.
import { macDashes, parseMac, type Mac } from '../addr.ts';
import { hexOf, type Digest } from '../digest.ts';

/** Of scripts, as the HTTP server's router reads it: any way to write a MAC is understood. */
export const SCRIPT_ROUTE = '/script/:mac';

/** The node's iPXE script. Dashes, because a colon in a path confuses old URI parsers. */
export function scriptPath(mac: Mac): string {
  return SCRIPT_ROUTE.replace(':mac', macDashes(mac));
}

/** Of content-addressed files, as the HTTP server's router reads it. */
export const BLOB_ROUTE = '/blobs/sha256/:hex';

/** A content-addressed file; the boot's id only tells which boot fetched it. */
export function blobPath(digest: Digest, bootId?: string): string {
  return `${BLOB_ROUTE.replace(':hex', hexOf(digest))}${bootId ? `?boot=${bootId}` : ''}`;
}

/** A loader by its served name, for firmware that fetches it by HTTP; `:file` gives what the HTTP server's router reads. */
export function loaderPath(file: string): string {
  return `/loaders/${file}`;
}

/** Where the initrd stage gets its session: `POST`, once per boot. */
export const ENROL_PATH = '/enrol';

/** The session's routes, which initrd stage and agent put together from the boot's id; each needs the token. `:id` gives what the HTTP server's router reads. */
export function sessionPath(bootId: string, route: 'config' | 'facts' | 'facts.env' | 'report'): string {
  return `/boots/${bootId}/${route}`;
}

/** Of all that Git asks for. */
export const GIT_PREFIX = '/git';

/** Read-only smart Git, for the stock client; `:repo` gives what the HTTP server's router reads. */
export function gitPath(repo: string): string {
  return `${GIT_PREFIX}/${repo}.git`;
}

/** The script over TFTP, for an iPXE that asks for it there; the node is told by its address. */
export const TFTP_SCRIPT = 'boot.ipxe';
/** iPXE 2.0 asks for this name by itself (TRAPS 4). */
export const TFTP_AUTOEXEC = 'autoexec.ipxe';
/** The node's kernel, and all of its initrds one behind the other, which is what a loader makes of several. Under a MAC only. */
export const TFTP_KERNEL = 'kernel';
export const TFTP_INITRD = 'initrd';

/** What GRUB asks for by itself, by TFTP and by HTTP (measured: Debian's 2.06 and 2.12); the same for all machines. */
export const GRUB_ROOT_CFG_FILE = 'grub/grub.cfg';
/** The node's own, which that one names. Under a MAC only: GRUB writes its own with colons. */
export const GRUB_CFG = 'grub.cfg';
/** That by HTTP, as the HTTP server's router reads it. */
export const GRUB_ROUTE = `/:mac/${GRUB_CFG}`;

/** The node's UKI: a loader and its kernel in one. Under a MAC only, by TFTP and by HTTP; EDK2 takes what it fetches by HTTP for a program because of the `.efi`. */
export const UKI_FILE = 'uki.efi';

/** The UKI by HTTP, as the HTTP server's router reads it: what `loaderPath(loaderName(UKI_FILE, mac))` is. */
export const UKI_ROUTE = loaderPath(`:mac/${UKI_FILE}`);

/** What a loader decision names, as that machine asks for it. */
export function loaderName(file: string, mac: Mac | undefined): string {
  return file === UKI_FILE && mac !== undefined ? tftpPath(mac, UKI_FILE) : file;
}

/** A name that says which node it is for: `52-54-00-12-34-56/kernel`. Any name may stand behind the MAC, a loader's too. */
export function tftpPath(mac: Mac, file: string): string {
  return `${macDashes(mac)}/${file}`;
}

/** What a name in a request means; `file` is to be looked up as it is. A MAC may have dashes (`${mac:hexhyp}` of iPXE), colons (`${mac}`, GRUB), neither (`${mac:hexraw}`), and PXELINUX's `01-` before it. */
export function readTftpName(asked: string): { readonly mac?: Mac; readonly file: string } {
  const name = plainTftpName(asked);
  // What stands behind it may be of a loader set: `52-54-00-12-34-56/ipxe-2.0/snponly.efi`.
  const [, first, file] = /^([0-9a-f:-]+)\/((?:[a-z0-9][a-z0-9._-]*\/)?[^/]+)$/i.exec(name) ?? [];
  const mac = first === undefined ? undefined : parseMac(first);
  return mac === undefined ? { file: name } : { mac, file: file! };
}

/** `/undionly.kpxe` and `./undionly.kpxe` mean `undionly.kpxe`: firmware and people write all three. */
export function plainTftpName(asked: string): string {
  return asked.replace(/^(\.?\/)+/, '');
}
