import { generateKeyPairSync, sign } from "node:crypto"

/** A key and a certificate that is signed by it: X.509 at its smallest. */
export const makeCertificate = () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519")
  const der = (tag: number, ...parts: ReadonlyArray<Uint8Array>) => {
    const content = Buffer.concat(parts)
    const length = content.length < 128 ? [content.length] : [0x81, content.length]
    return Buffer.concat([Buffer.from([tag, ...length]), content])
  }
  const algorithm = der(0x30, Buffer.from([0x06, 0x03, 0x2b, 0x65, 0x70]))
  const nobody = der(0x30)
  const validity = der(0x30, ...["200101000000Z", "491231235959Z"].map((time) => der(0x17, Buffer.from(time))))
  const content = der(
    0x30,
    der(0x02, Buffer.from([1])),
    algorithm,
    nobody,
    validity,
    nobody,
    publicKey.export({ type: "spki", format: "der" })
  )
  const raw = der(0x30, content, algorithm, der(0x03, Buffer.from([0]), sign(null, content, privateKey)))
  return {
    raw,
    cert: `-----BEGIN CERTIFICATE-----\n${raw.toString("base64")}\n-----END CERTIFICATE-----`,
    key: privateKey.export({ type: "pkcs8", format: "pem" })
  }
}
