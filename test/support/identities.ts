/**
 * Certificates for tests, each its own authority, with the keys: worth nothing to anybody else. `localhost` is for a server
 * of that name, and neither for its address nor for another one; `elsewhere` is for a host that does not exist.
 */
export interface Identity {
  readonly certificate: string
  readonly key: string
}

export const localhost: Identity = {
  certificate: `-----BEGIN CERTIFICATE-----
MIIBlDCCATugAwIBAgIUeV6PfAQ/U8wPCwKt/TfSb+fBjCEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTExNTYyNFoYDzIxMjYxMTA1
MTE1NjI0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATeJdwsPR/hg88atu9o0TYlfyEjuBUHrZ4ltmvXUx4GLaGR3mWNlyhB
vXJvFVNt+f5Gqfsie8F+XK+PhhF+J6xCo2kwZzAdBgNVHQ4EFgQU/ZXfXNQpz45i
h40VRy6ILFmGrjkwHwYDVR0jBBgwFoAU/ZXfXNQpz45ih40VRy6ILFmGrjkwFAYD
VR0RBA0wC4IJbG9jYWxob3N0MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID
RwAwRAIgM4SdVJ8EWEDx16QCYJ9gpU3SrDjYtW3ziwWBCEC6EgQCIHSv8h2ZHvVe
YQ5V7kYHAomqg93Li2YhS6snxDIlwDHr
-----END CERTIFICATE-----`,
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4rqMioSoPC1BYFI1
avT7QTK1NQG2YvgSeX5Z8P7YSH2hRANCAATeJdwsPR/hg88atu9o0TYlfyEjuBUH
rZ4ltmvXUx4GLaGR3mWNlyhBvXJvFVNt+f5Gqfsie8F+XK+PhhF+J6xC
-----END PRIVATE KEY-----`
}

export const elsewhere: Identity = {
  certificate: `-----BEGIN CERTIFICATE-----
MIIBrjCCAVOgAwIBAgIUdupBBoraAL5S7gn2b3i/uJAJpq8wCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRZWxzZXdoZXJlLmludmFsaWQwIBcNMjYxMTI5MTE1NjI0WhgP
MjEyNjExMDUxMTU2MjRaMBwxGjAYBgNVBAMMEWVsc2V3aGVyZS5pbnZhbGlkMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEoPg+X5cRwCKtlqt+/UoESKLrNmN+JPx7
8kBGVMRrlNnSlf8nbNdPXXjhmN7dpO/Ej3RuYXFYzaaWJ/7eRRB3O6NxMG8wHQYD
VR0OBBYEFJxqw7r7Q/W/gS8ufqIDqRbC3iyoMB8GA1UdIwQYMBaAFJxqw7r7Q/W/
gS8ufqIDqRbC3iyoMBwGA1UdEQQVMBOCEWVsc2V3aGVyZS5pbnZhbGlkMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAIZbTpszr5VpL14ohVx6/Yg+
V+IBkwv89MuouLX9IgKLAiEApsYIeWs7830i29F1iMNlPWGoBPoU4TQyO3UfX0oO
+Fo=
-----END CERTIFICATE-----`,
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgl4u7gKuji6EZEnMy
sBs3hgCr7xK3d53rIe2HA/P7VEihRANCAASg+D5flxHAIq2Wq379SgRIous2Y34k
/HvyQEZUxGuU2dKV/yds109deOGY3t2k78SPdG5hcVjNppYn/t5FEHc7
-----END PRIVATE KEY-----`
}
